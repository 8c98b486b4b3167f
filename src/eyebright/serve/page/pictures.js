// Files out of a drop, a folder or the clipboard, and small pictures of them.

const ENDINGS = /\.(jpe?g|png|gif|webp|bmp|p[bgpn]m|hei[cf]|avif|tiff?)$/i;

export const isPicture = (file) => file.type.startsWith("image/") || ENDINGS.test(file.name);

/** Where a file lay within the folder that was chosen. */
export const nameOf = (file) => file.path || file.webkitRelativePath || file.name;

async function entriesOf(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all; // it gives 100 at a time
    all.push(...some);
  }
}

async function walk(entry, found) {
  if (entry.isDirectory) {
    const inside = await entriesOf(entry).catch(() => []);
    inside.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    for (const each of inside) await walk(each, found);
  } else {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    if (!file || file.name.startsWith(".") || !isPicture(file)) return;
    Object.defineProperty(file, "path", { value: entry.fullPath.replace(/^\//, "") });
    found.push(file);
  }
}

/** Files of a drop; folders are walked through for pictures. */
export async function filesOf(transfer) {
  // Entries must be taken before the first await: the list is empty afterwards.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  const files = [...transfer.files];
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  const found = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

/** A data URL of the picture's middle square, or null where the browser cannot read it. */
export async function thumbnail(file, side = 96) {
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const brush = canvas.getContext("2d");
    brush.fillStyle = "#fff"; // as the net sees what is transparent
    brush.fillRect(0, 0, side, side);
    const { width, height } = bitmap;
    const cut = Math.min(width, height);
    brush.imageSmoothingEnabled = cut >= side;
    brush.imageSmoothingQuality = "high";
    brush.drawImage(bitmap, (width - cut) / 2, (height - cut) / 2, cut, cut, 0, 0, side, side);
    return canvas.toDataURL("image/jpeg", 0.85);
  } catch {
    return null;
  } finally {
    bitmap?.close();
  }
}

export const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
