// The page of fxquant.inspect: a tree with stages side by side, a curve through depth, and what each pass did.
import "tabulator-tables/dist/css/tabulator_simple.min.css";
import "./style.css";
import { readAddress, writeAddress } from "./address.js";
import { ancestors, buildTree, isProduct, readData } from "./data.js";
import { drawDepth } from "./depth.js";
import { showDetails } from "./details.js";
import { element, percent } from "./element.js";
import { showPasses } from "./passes.js";
import { STATES } from "./states.js";
import { makeTable } from "./table.js";

const $ = (id) => document.getElementById(id);

start().catch((error) => {
  $("status").textContent = `The page could not be opened: ${error.message}`;
  throw error;
});

async function start() {
  const data = await readData($("data"));
  const { root, leaves, byId } = buildTree(data);
  const chosen = { row: "", q: "", filter: "", view: "tree", tab: "layers", curve: "sqnr", theme: "", hide: "", pass: "", ...readAddress() };
  const open = new Set(startOpen(root));
  const hidden = new Set(chosen.hide.split(",").filter(Boolean));
  const visible = () => new Set(data.stages.map((stage) => stage.title).filter((title) => !hidden.has(title)));
  const table = makeTable($("table"), data, { onSelect: choose, onToggle: (entry, opened) => (opened ? open.add(entry.id) : open.delete(entry.id)) });

  function choose(entry) {
    chosen.row = entry?.id ?? "";
    writeAddress(chosen);
    table.select(chosen.row);
    showDetails($("details"), data, entry, visible());
    drawCurve();
  }

  function drawCurve() {
    const measured = data.stages.some((stage) => stage.cells.sqnr);
    $("depth").hidden = !measured;
    if (measured) drawDepth($("curve"), data, leaves, chosen.curve, byId.get(chosen.row), reveal);
  }

  async function reveal(entry) {
    ancestors(entry).forEach((id) => open.add(id));
    if (entry.module) open.add(entry.module);
    await showRows();
    choose(entry);
  }

  async function showRows() {
    const found = leaves.filter(matcher(chosen, data, visible()));
    $("status").textContent = `${found.length} of ${leaves.length} nodes`;
    if (chosen.view === "list") {
      await table.show(found.map((leaf) => ({ ...leaf, flat: true })), open);
      return;
    }
    const searched = Boolean(chosen.q || chosen.filter);
    const entries = found.length < leaves.length ? pruned(root, new Set(found)).children : root.children;
    await table.show(entries, searched && found.length < 400 ? new Set(byId.keys()) : open);
  }

  async function update() {
    writeAddress(chosen);
    await showRows();
    await table.select(chosen.row);
  }

  function showTab() {
    document.body.dataset.tab = chosen.tab;
    for (const button of $("tabs").children) button.ariaSelected = String(button.dataset.tab === chosen.tab);
    if (chosen.tab === "passes") {
      showPasses($("passes"), data.passes, +chosen.pass || firstChange(data.passes), (index) => {
        chosen.pass = String(index);
        writeAddress(chosen);
        showTab();
      });
    }
  }

  const redraw = () => {
    showDetails($("details"), data, byId.get(chosen.row), visible());
    drawCurve();
  };
  addControls(data, chosen, hidden, {
    update,
    redraw,
    showTab,
    stages: async () => {
      chosen.hide = [...hidden].join(",");
      await table.columns(visible());
      await update();
      redraw();
    },
  });
  addKeys(table, byId, chosen, choose);
  if (hidden.size) await table.columns(visible());
  showTab();
  const first = byId.get(chosen.row);
  if (first?.row !== undefined || first?.children) await reveal(first);
  else {
    await showRows();
    choose(null);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("hashchange", () => {
    const wanted = byId.get(readAddress().row);
    if (wanted && wanted.id !== chosen.row) reveal(wanted);
  });
  document.body.dataset.ready = "true";
}

/** Return the modules that are unfolded at first: those down to the blocks. */
function startOpen(root) {
  const found = [];
  const visit = (entry, depth) => {
    if (!entry.children || depth > 2) return;
    found.push(entry.id);
    if (entry.children.length <= 64) entry.children.filter((child) => child.children?.some((below) => below.children)).forEach((child) => visit(child, depth + 1));
  };
  root.children.filter((child) => /^\d+$/.test(child.children?.[0]?.name ?? "")).forEach((child) => found.push(child.id));
  return found;
}

/** Return whether a leaf is to be shown for the search and the filter that are chosen. */
function matcher({ q, filter, view }, data, visible) {
  const stages = data.stages.map((stage) => visible.has(stage.title));
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  const [kind, value] = [filter.slice(0, filter.indexOf(":")), filter.slice(filter.indexOf(":") + 1)];
  return (leaf) => {
    const cells = leaf.cells.filter((cell, index) => cell && stages[index]);
    if (!cells.length) return false;
    if (kind === "state" && !cells.some((cell) => cell.state === value)) return false;
    if (kind === "reason" && !cells.some((cell) => cell.reason === value)) return false;
    if (!words.length) return view === "all" || (view === "list" ? isProduct(leaf) : !cells.every((cell) => cell.minor));
    const text = [leaf.id, data.modules[leaf.module], ...cells.flatMap((cell) => [cell.node, cell.operator, cell.state, cell.reason, cell.kernel])].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
}

function pruned(entry, kept) {
  const children = entry.children.map((child) => (child.children ? pruned(child, kept) : kept.has(child) ? child : null)).filter(Boolean);
  return children.length || !entry.id ? { ...entry, children } : null;
}

const firstChange = (passes) => Math.max(passes.findIndex((pass) => pass.added.length || pass.removed.length || pass.changed.length), 0);

function addControls(data, chosen, hidden, { update, redraw, showTab, stages }) {
  const search = $("search");
  search.value = chosen.q;
  search.oninput = () => {
    chosen.q = search.value;
    update();
  };
  const states = Object.keys(STATES).filter((state) => data.stages.some((stage) => stage.cells.state.includes(state)));
  const reasons = [...new Set(data.stages.flatMap((stage) => stage.cells.reason).filter(Boolean))].sort();
  const filter = $("filter");
  filter.append(
    element("option", { value: "" }, "all nodes"),
    ...states.map((state) => element("option", { value: `state:${state}` }, `products: ${STATES[state]}`)),
    ...reasons.map((reason) => element("option", { value: `reason:${reason}` }, `float because ${reason}`)),
  );
  filter.value = chosen.filter;
  filter.onchange = () => {
    chosen.filter = filter.value;
    update();
  };
  const view = $("view");
  view.value = chosen.view;
  view.onchange = () => {
    chosen.view = view.value;
    update();
  };
  const curve = $("measure");
  curve.value = chosen.curve;
  curve.onchange = () => {
    chosen.curve = curve.value;
    update();
    redraw();
  };
  $("stages").append(
    ...data.stages.map((stage) => {
      const box = element("input", { type: "checkbox", checked: !hidden.has(stage.title) });
      box.onchange = () => {
        if (box.checked) hidden.delete(stage.title);
        else hidden.add(stage.title);
        stages();
      };
      const text = stage.int8 ? `${stage.int8} of ${stage.products} products on ${stage.codes}, ${percent(stage.coverage)} of MACs` : `${stage.products} products, ${stage.float_dtype}`;
      return element("label", { title: text }, box, ` ${stage.title} `, element("small", {}, text));
    }),
  );
  $("facts").append(...Object.entries(data.facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  $("facts").hidden = !Object.keys(data.facts).length;
  for (const button of $("tabs").children) {
    button.onclick = () => {
      chosen.tab = button.dataset.tab;
      writeAddress(chosen);
      showTab();
    };
  }
  $("tabs").hidden = !data.passes.length;
  const theme = () => {
    document.documentElement.dataset.theme = chosen.theme;
  };
  theme();
  $("theme").onclick = () => {
    const dark = chosen.theme ? chosen.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    chosen.theme = dark ? "light" : "dark";
    theme();
    writeAddress(chosen);
    redraw();
  };
}

function addKeys(table, byId, chosen, choose) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "Escape") document.activeElement.blur();
    if (typing) return;
    const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: 15, PageUp: -15 }[event.key];
    if (event.key === "/") $("search").focus();
    else if (event.key === "t") $("theme").click();
    else if (step && !event.target.closest(".difference")) choose(table.beside(chosen.row, step));
    else if (event.key === "ArrowRight" && !table.toggle(chosen.row, true)) choose(table.beside(chosen.row, 1));
    else if (event.key === "ArrowLeft" && !table.toggle(chosen.row, false)) {
      const above = byId.get(ancestors(byId.get(chosen.row) ?? { children: [], id: "" }).at(-1));
      if (above) choose(above);
    } else if (!["ArrowRight", "ArrowLeft"].includes(event.key)) return;
    event.preventDefault();
  });
}
