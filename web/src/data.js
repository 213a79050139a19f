// Reads the data of the page and makes a tree of modules and nodes of them.

/** Return the object that the page carries as base64 of gzipped JSON. */
export async function readData(element) {
  const bytes = Uint8Array.from(atob(element.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** Return the bytes of a base64 text. */
export const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/**
 * Return {root, leaves, byId} for the data.
 *
 * A leaf is a row of the data: {id, name, module, row, cells}, cells one object per stage or null. A module has children, in
 * `cells` the sums and the worst of what is below it, and in `only` the product that it is made for, where it has just one.
 */
export function buildTree(data) {
  const leaves = data.rows.name.map((name, row) => ({
    id: "",
    name,
    module: data.rows.module[row],
    row,
    cells: data.stages.map(() => null),
  }));
  data.stages.forEach((stage, index) => {
    const columns = Object.entries(stage.cells);
    const total = sum(stage.cells.macs);
    stage.cells.row.forEach((row, position) => {
      const cell = Object.fromEntries(columns.map(([name, values]) => [name, values[position]]));
      cell.share = cell.macs && total ? cell.macs / total : null;
      leaves[row].cells[index] = cell;
    });
  });
  const modules = new Map();
  const root = { id: "", name: "", children: [] };
  modules.set("", root);
  const moduleOf = (path) => {
    if (modules.has(path)) return modules.get(path);
    const dot = path.lastIndexOf(".");
    const parent = moduleOf(dot < 0 ? "" : path.slice(0, dot));
    const made = { id: path, name: path.slice(dot + 1), type: data.modules[path], children: [] };
    modules.set(path, made);
    parent.children.push(made);
    return made;
  };
  const taken = new Map();
  for (const leaf of leaves) {
    const wanted = `${leaf.module}/${leaf.name}`;
    const count = (taken.get(wanted) ?? 0) + 1;
    taken.set(wanted, count);
    leaf.id = count > 1 ? `${wanted}#${count}` : wanted;
    moduleOf(leaf.module).children.push(leaf);
  }
  summarise(root, data.stages.length);
  const byId = new Map([...modules.values(), ...leaves].map((entry) => [entry.id, entry]));
  return { root, leaves, byId };
}

/** Return the ids of the modules above an entry, the outermost first. */
export function ancestors(entry) {
  const path = entry.children ? entry.id : `${entry.module}.`;
  return [...path.matchAll(/\./g)].map((dot) => path.slice(0, dot.index)).filter(Boolean);
}

/** Say whether a leaf is a product at any stage. */
export const isProduct = (leaf) => leaf.cells.some((cell) => cell?.state);

/** Return the number that an SQNR is sorted by: equal values are the best. */
export const decibels = (sqnr) => (sqnr === "exact" ? Infinity : sqnr);

function summarise(entry, stages) {
  if (!entry.children) return;
  entry.children.forEach((child) => summarise(child, stages));
  const products = entry.children.filter((child) => child.children || isProduct(child));
  if (products.length === 1 && !products[0].children) entry.only = products[0];
  entry.cells = Array.from({ length: stages }, (_, index) => {
    const found = entry.children.map((child) => child.cells[index]).filter(Boolean);
    if (!found.length) return null;
    const states = {};
    for (const cell of found) {
      for (const [state, count] of Object.entries(cell.states ?? (cell.state ? { [cell.state]: 1 } : {}))) {
        states[state] = (states[state] ?? 0) + count;
      }
    }
    const known = (name) => found.map((cell) => cell[name]).filter((value) => value !== null && value !== undefined);
    const worst = known("sqnr").sort((a, b) => decibels(a) - decibels(b))[0];
    return {
      states,
      share: sum(known("share")) || null,
      ms: sum(known("ms")) || null,
      of_error: known("of_error").length ? sum(known("of_error")) : null,
      sqnr: worst ?? null,
      drop: known("drop").length ? Math.max(...known("drop").filter(Number.isFinite)) : null,
      cosine: known("cosine").length ? Math.min(...known("cosine")) : null,
    };
  });
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
