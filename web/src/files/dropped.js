// What was dropped on the page: files, and directories with everything in them.

/** Files of one drop; whoever drops more wanted something else. */
const MOST = 5_000;

/**
 * @param {DataTransfer} transfer
 * @returns {Promise<{path: string, file: File}[]>} paths relative to where they were dropped
 */
export async function droppedFiles(transfer) {
  // The items are only there until the event is over; what they stand for stays.
  const roots = [...transfer.items].filter(({ kind }) => kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const root of roots) {
    if (root instanceof File) found.push({ path: root.name, file: root });
    else if (root) await walk(root, found);
  }
  return found;
}

async function walk(entry, found) {
  if (found.length >= MOST) throw new Error(`More than ${MOST} files: take them as an archive.`);
  const path = entry.fullPath.replace(/^\//, "");
  if (entry.isFile) {
    found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a hundred at a time.
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return;
    for (const one of entries) await walk(one, found);
  }
}
