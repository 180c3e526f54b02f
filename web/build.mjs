// Bundles src/ into dist/: pages at the top, everything they load under /assets/. No file loads anything from
// elsewhere, and nothing is inline, so the server can send a strict Content-Security-Policy.
import { cp, mkdir, readdir, rm, stat } from "node:fs/promises";
import { build } from "esbuild";

const out = new URL("dist/", import.meta.url);
await rm(out, { recursive: true, force: true });
await mkdir(new URL("assets/", out), { recursive: true });

await build({
  entryPoints: ["src/index.js", "src/view.js", "src/style.css", "src/view.css"],
  absWorkingDir: new URL(".", import.meta.url).pathname,
  outdir: "dist/assets",
  bundle: true,
  minify: true,
  format: "esm", // noVNC awaits at its top level
  target: ["chrome100", "firefox100", "safari15.4"],
  logLevel: "warning",
});

for (const page of ["index.html", "view.html"]) {
  await cp(new URL(`src/${page}`, import.meta.url), new URL(page, out));
}
// noVNC is MPL-2.0: its licence travels with the bundle.
await cp(new URL("node_modules/@novnc/novnc/LICENSE.txt", import.meta.url), new URL("assets/novnc-license.txt", out));
await cp(new URL("src/favicon.svg", import.meta.url), new URL("assets/favicon.svg", out));

for (const file of await readdir(new URL("assets/", out))) {
  const { size } = await stat(new URL(`assets/${file}`, out));
  console.log(`dist/assets/${file}  ${(size / 1024).toFixed(1)} KiB`);
}
