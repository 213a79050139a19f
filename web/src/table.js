// The tree of modules and nodes, drawn by Tabulator: only the rows in view exist.
import { DataTreeModule, FormatModule, FrozenColumnsModule, InteractionModule, ResizeColumnsModule, SelectRowModule, SortModule, Tabulator, TooltipModule } from "tabulator-tables";
import { decibels } from "./data.js";
import { element, percent, short } from "./element.js";
import { chip, mixture } from "./states.js";

Tabulator.registerModule([DataTreeModule, FormatModule, FrozenColumnsModule, InteractionModule, ResizeColumnsModule, SelectRowModule, SortModule, TooltipModule]);

/**
 * Return {show, select, columns}: a table in `place`.
 *
 * show(entries, open): the entries of the top, and which modules start unfolded; select(id) marks and shows a row;
 * columns(visible): which stages have columns. onSelect is called with an entry, onToggle with a module and whether it is open.
 */
export function makeTable(place, data, { onSelect, onToggle }) {
  let open = new Set();
  const table = new Tabulator(place, {
    data: [],
    index: "id",
    height: "100%",
    layout: "fitColumns",
    dataTree: true,
    dataTreeChildField: "children",
    dataTreeElementColumn: "name",
    dataTreeBranchElement: false,
    dataTreeChildIndent: 14,
    dataTreeStartExpanded: (row) => open.has(row.getData().id),
    selectableRows: 1,
    columnDefaults: { headerTooltip: true, resizable: true },
    columns: columns(data, new Set(data.stages.map((stage) => stage.title))),
  });
  const ready = new Promise((resolve) => table.on("tableBuilt", resolve));
  table.on("rowClick", (_, row) => onSelect(row.getData()));
  table.on("dataTreeRowExpanded", (row) => onToggle(row.getData(), true));
  table.on("dataTreeRowCollapsed", (row) => onToggle(row.getData(), false));
  const find = (id) => table.rowManager.getDisplayRows().find((row) => row.data.id === id)?.getComponent();
  return {
    async show(entries, opened) {
      open = opened;
      await ready;
      await table.setData(entries);
    },
    async columns(visible) {
      await ready;
      table.setColumns(columns(data, visible));
    },
    async select(id) {
      await ready;
      table.deselectRow();
      const row = find(id);
      if (row) {
        row.select();
        await row.scrollTo("center", false).catch(() => {});
      }
    },
    /** Return the entry that stands `step` rows after the one with `id`. */
    beside(id, step) {
      const rows = table.rowManager.getDisplayRows();
      const at = rows.findIndex((row) => row.data.id === id);
      return rows[Math.min(Math.max(at + step, 0), rows.length - 1)]?.data;
    },
    toggle(id, opened) {
      const row = find(id);
      if (!row?.getData().children) return false;
      if (row.isTreeExpanded() === opened) return false;
      row[opened ? "treeExpand" : "treeCollapse"]();
      return true;
    },
  };
}

function columns(data, visible) {
  const shown = data.stages.map((stage, index) => ({ stage, index })).filter(({ stage }) => visible.has(stage.title));
  const stages = shown.map(({ stage, index }) => ({
    title: stage.title,
    field: `stage${index}`,
    minWidth: 100,
    widthGrow: 2,
    headerTooltip: `what runs in the ${stage.title} graph`,
    formatter: (cell) => runs(product(cell.getData()).cells[index]),
    sorter: (a, b, one, other) => order(one, index).localeCompare(order(other, index)),
  }));
  const last = shown.findLast(({ stage }) => stage.int8 || stage.cells.sqnr) ?? shown.at(-1);
  return [
    { title: "module or node", field: "name", frozen: true, minWidth: 180, widthGrow: 3, formatter: name, sorter: byName },
    ...stages,
    ...(last ? figures(last.stage, last.index) : []),
  ];
}

function figures(stage, index) {
  const column = (title, field, show, tip) => ({
    title,
    field,
    hozAlign: "right",
    minWidth: 70,
    headerTooltip: `${tip}, ${stage.title}`,
    formatter: (cell) => show(cell.getData().cells[index]?.[field]),
    sorter: (a, b, one, other, _, direction) => byNumber(one, other, index, field, direction),
  });
  const bits = {
    title: "operands",
    field: "operands",
    minWidth: 92,
    headerSort: false,
    headerTooltip: `codes of the operands, ${stage.title}`,
    formatter: (cell) => (product(cell.getData()).cells[index]?.operands ?? []).map(([, dtype]) => dtype).join(" x "),
  };
  const found = [bits, column("MACs", "share", percent, "share of all multiply-accumulates")];
  if (stage.cells.of_error) found.push({ ...column("error", "of_error", percent, "part of the final error that goes away where this is float; of a module the sum"), headerSortStartingDir: "desc" });
  if (stage.cells.ms) found.push(column("ms", "ms", short, "milliseconds, run node by node"));
  if (stage.cells.sqnr) {
    found.push(
      column("SQNR", "sqnr", (value) => (typeof value === "number" ? value.toFixed(1) : (value ?? "")), "dB; of a module the worst"),
      { ...column("drop", "drop", (value) => (typeof value === "number" ? value.toFixed(1).replace("-0.0", "0.0") : ""), "dB of SQNR lost here, against what is read; of a module the most"), headerSortStartingDir: "desc" },
      column("cosine", "cosine", (value) => (typeof value === "number" ? value.toFixed(4) : ""), "of a module the worst"),
    );
  }
  return found;
}

function name(cell) {
  const entry = cell.getData();
  const label = entry.flat ? `${entry.module} ${entry.name}` : entry.name;
  return element("span", { title: entry.id }, label, entry.type ? element("small", {}, ` ${entry.type}`) : "");
}

function runs(cell) {
  if (!cell) return element("span", { className: "absent" }, "–");
  if (cell.states) return mixture(cell.states);
  return element("span", { title: cell.reason ?? cell.kernel ?? cell.operator }, chip(cell.state), ` ${cell.operator}`);
}

const product = (entry) => entry.only ?? entry;

const order = (row, index) => {
  const cell = row.getData().cells[index];
  return cell ? `${cell.state ?? ""} ${cell.operator ?? ""}` : "";
};

const byName = (a, b) => String(a).localeCompare(String(b), undefined, { numeric: true });

/** Compare two rows; one without a figure comes last in both directions. */
function byNumber(one, other, index, field, direction) {
  const [a, b] = [one, other].map((row) => decibels(row.getData().cells[index]?.[field] ?? null));
  if (a === null || b === null) return a === b ? 0 : (a === null) === (direction === "asc") ? 1 : -1;
  return a === b ? 0 : a - b;
}
