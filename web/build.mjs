// Bundles src/ into dist/: pages at the top, everything they load under /assets/. No file loads anything from
// elsewhere, and nothing is inline, so the server can send a strict Content-Security-Policy.
import { cp, mkdir, readFile, readdir, rm, stat } from "node:fs/promises";
import { build } from "esbuild";

const out = new URL("dist/", import.meta.url);
await rm(out, { recursive: true, force: true });
await mkdir(new URL("assets/", out), { recursive: true });

/** What xterm.js does that the policy forbids, how often, and the same as it is allowed (src/terminals/sheet.js). */
const FORBIDDEN = [
  [/\.createElement\("style"\)/g, '.createElement("helix-sheet")', 3],
  [/(\w+)\.setAttribute\("style",`\$\{\1\.getAttribute\("style"\)\|\|""\}\$\{(\w+)\};`\)/g, '$1.style.cssText+=$2+";"', 1],
];

/** xterm.js puts style sheets and style attributes into the page as markup. */
const lawfulXterm = {
  name: "lawful-xterm",
  setup({ onLoad }) {
    onLoad({ filter: /@xterm\/xterm\/lib\/xterm\.mjs$/ }, async ({ path }) => {
      let contents = await readFile(path, "utf8");
      for (const [pattern, instead, times] of FORBIDDEN) {
        const found = [...contents.matchAll(pattern)].length;
        if (found !== times) throw new Error(`xterm.js has ${found} of ${pattern}, not ${times}: look at what has changed`);
        contents = contents.replace(pattern, instead);
      }
      return { contents };
    });
  },
};

const bundle = {
  absWorkingDir: new URL(".", import.meta.url).pathname,
  outdir: "dist/assets",
  bundle: true,
  minify: true,
  format: "esm", // noVNC awaits at its top level
  target: ["chrome100", "firefox101", "safari16.4"],
  legalComments: "none", // the licences travel as files
  plugins: [lawfulXterm],
  logLevel: "warning",
};
await build({
  ...bundle,
  entryPoints: ["src/index.js", "src/view.js", "src/replay.js", "src/style.css", "src/view.css", "src/replay.css"],
  splitting: true, // what few look at is loaded when they do
  chunkNames: "[name]-[hash]",
});
// The page of a runner's own port is part of agentd, which serves these two files and no chunks.
await build({ ...bundle, entryPoints: ["src/vnc.js", "src/vnc.css"] });

for (const page of ["index.html", "view.html", "replay.html", "vnc.html"]) {
  await cp(new URL(`src/${page}`, import.meta.url), new URL(page, out));
}
// noVNC is MPL-2.0, xterm.js MIT: their licences travel with the bundle.
for (const [module, licence] of [
  ["@novnc/novnc/LICENSE.txt", "novnc"],
  ["@xterm/xterm/LICENSE", "xterm"],
]) {
  await cp(new URL(`node_modules/${module}`, import.meta.url), new URL(`assets/${licence}-license.txt`, out));
}
await cp(new URL("src/favicon.svg", import.meta.url), new URL("assets/favicon.svg", out));

for (const file of await readdir(new URL("assets/", out))) {
  const { size } = await stat(new URL(`assets/${file}`, out));
  console.log(`dist/assets/${file}  ${(size / 1024).toFixed(1)} KiB`);
}
