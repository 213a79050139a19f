// What runs, by name and colour.
import { element } from "./element.js";

export const STATES = {
  int8: "int8",
  token: "int8, per token",
  float8: "float8",
  fake: "simulated",
  observed: "observed",
  float: "float",
  opaque: "opaque",
};

/** Return a coloured mark with the name of a state; nothing for a node that is no product. */
export const chip = (state) => (state ? element("span", { className: `chip ${state}` }, { token: "per token", fake: "simulated" }[state] ?? state) : "");

/** Return a bar with a part for each state, by how many products have it. */
export function mixture(states) {
  const parts = Object.entries(states);
  const title = parts.map(([state, count]) => `${count} ${STATES[state]}`).join(", ");
  return element(
    "span",
    { className: "mixture", title },
    Object.keys(STATES)
      .filter((state) => states[state])
      .map((state) => {
        const part = element("i", { className: state });
        part.style.flexGrow = states[state];
        return part;
      }),
  );
}
