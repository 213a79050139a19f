// What each pass added, removed and changed.
import { element } from "./element.js";

/** Fill `place` with the passes; `chosen` is the index of the one that is open, and `choose` is called with another. */
export function showPasses(place, passes, chosen, choose) {
  const list = element(
    "ol",
    { className: "passes", start: 2 },
    passes.map((pass, index) =>
      element(
        "li",
        {},
        element(
          "button",
          { ariaPressed: String(index === chosen), className: counts(pass) ? "" : "idle", onclick: () => choose(index) },
          pass.name,
          element("small", {}, counts(pass) || " no change"),
        ),
      ),
    ),
  );
  place.replaceChildren(list, difference(passes[chosen]));
}

function counts(pass) {
  const parts = [
    ["+", pass.added],
    ["−", pass.removed],
    ["~", pass.changed],
  ];
  return parts.filter(([, lines]) => lines.length).map(([sign, lines]) => ` ${sign}${lines.length}`).join("");
}

function difference(pass) {
  const lines = [
    ...pass.removed.map((text) => line("removed", text)),
    ...pass.added.map((text) => line("added", text)),
    ...pass.changed.flatMap(([before, after]) => [line("removed", before), line("added", after)]),
  ];
  return element("div", { className: "difference", tabIndex: 0 }, lines.length ? lines : element("p", { className: "hint" }, "This pass changed nothing here."));
}

const line = (kind, text) => element("code", { className: kind }, text);
