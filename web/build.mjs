// Builds the script and the style of the page, and writes down what they were built from: see tests/inspection/test_built_page.py.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const OUT = "../fxquant/inspection/page";
const EMBEDDED = ["echarts", "tabulator-tables", "tslib", "zrender"];

await build({
  entryPoints: { page: "src/main.js" },
  outdir: OUT,
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "none", // they are in licences.txt
  target: ["chrome109", "firefox113", "safari16.4"],
});

const licences = EMBEDDED.map((name) => {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const files = readdirSync(folder, { recursive: true }).filter((file) => /^(licenses\/|licen[cs]e(\.|$)|notice)/i.test(file)).sort();
  const text = files.map((file) => readFileSync(join(folder, file), "utf8").trim()).join("\n\n");
  return `${name} ${version}, ${license}\n\n${text}\n`;
});
writeFileSync(join(OUT, "licences.txt"), `What page.js and page.css embed.\n\n${licences.join(`\n${"-".repeat(80)}\n\n`)}`);

const hash = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");
const sources = ["build.mjs", "package.json", "package-lock.json", ...readdirSync("src").sort().map((file) => `src/${file}`)];
const outputs = ["licences.txt", "page.css", "page.js"];
const built = {
  sources: Object.fromEntries(sources.map((file) => [file, hash(file)])),
  outputs: Object.fromEntries(outputs.map((file) => [file, hash(join(OUT, file))])),
};
writeFileSync(join(OUT, "built.json"), `${JSON.stringify(built, null, 2)}\n`);
