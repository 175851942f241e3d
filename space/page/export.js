// Files of the work: a table, annotated images, COCO, and crops by type. All are made in the browser.

const ANNOTATED_QUALITY = 0.92;

function stem(name) {
  return name.replace(/^.*[\\/]/, "").replace(/\.[^.]*$/, "");
}

// A name that any file system takes and that keeps the letters of all scripts.
function fileName(name) {
  return name.replace(/[^\p{L}\p{N}._-]+/gu, "_").replace(/^[._]+/, "") || "image";
}

// The stem of each field's files, different for each.
function fieldNames() {
  const taken = new Set();
  return state.fields.map((field) => {
    const name = fileName(stem(field.file));
    let free = name;
    for (let number = 2; taken.has(free); number++) free = `${name}-${number}`;
    taken.add(free);
    return free;
  });
}

// A cell of a CSV file; a spreadsheet would run what begins like a formula.
function csvCell(value) {
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// A row for each cell, and one for each file without.
function cellTable() {
  const attributes = [...new Set(state.cells.flatMap((cell) => Object.keys(cell.attributes ?? {})))];
  const head = ["file", "cell", "left", "top", "right", "bottom", "type", "probability", "second_guess", "second_probability", "stage",
    ...attributes, "by_hand", "model_type", "remark", ...PAGE.labels.map((label) => `p_${label}`)];
  const rows = [head];
  state.fields.forEach((field, index) => {
    const cells = liveCells(index);
    if (!cells.length) rows.push(head.map((column) => (column === "file" ? field.file
      : column === "remark" ? field.reason?.en ?? PAGE.texts["verdict.empty"].en : "")));
    cells.forEach((cell, number) => rows.push(tableRow(field, cell, number + 1, attributes)));
  });
  return `\ufeff${rows.map((row) => row.map(csvCell).join(",")).join("\r\n")}\r\n`;
}

function tableRow(field, cell, number, attributes) {
  const group = groupOf(cell), second = ranking(cell)[1], rounded = (value) => (value === undefined ? "" : Number(value.toFixed(4)));
  const remark = [cell.drawn ? "drawn by hand" : cell.remark, isDoubtful(cell) ? "doubtful" : null].filter(Boolean).join("; ");
  return [field.file, number, ...cell.box.map((side) => Number(side.toFixed(1))), group === REFUSED ? "" : group,
    rounded(cell.hand ? undefined : cell.probabilities[cell.label]), second?.[0] ?? "", rounded(second?.[1]), stageOf(cell) ?? "",
    ...attributes.map((name) => cell.attributes?.[name] ?? ""), cell.hand ? "yes" : "no", cell.label ?? "", remark,
    ...PAGE.labels.map((label) => rounded(cell.probabilities?.[label]))];
}

// The cells with a type as COCO's detections: boxes are left, top, width and height.
function cocoFile() {
  const labels = [...new Set([...PAGE.labels, ...state.cells.map(groupOf)])].filter((label) => label !== REFUSED && label !== NOT_WHITE);
  const images = state.fields.flatMap((field, index) => (field.preview ? [{ id: index + 1, file_name: field.file, width: field.width, height: field.height }] : []));
  const annotations = liveCells().filter((cell) => labels.includes(groupOf(cell))).map((cell, index) => {
    const [left, top, right, bottom] = cell.box;
    return { id: index + 1, image_id: cell.field + 1, category_id: labels.indexOf(groupOf(cell)) + 1, bbox: [left, top, right - left, bottom - top],
      area: (right - left) * (bottom - top), iscrowd: 0, ...(cell.hand ? {} : { score: cell.probabilities[cell.label] }),
      attributes: { ...cell.attributes, stage: stageOf(cell), by_hand: Boolean(cell.hand) } };
  });
  const info = { description: "White blood cells, for research only", contributor: state.reader, date_created: new Date().toISOString(), model: PAGE.model };
  return JSON.stringify({ info, images, annotations, categories: labels.map((name, index) => ({ id: index + 1, name, supercategory: "blood cell" })) }, null, 1);
}

async function loadPicture(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  return picture;
}

function toBlob(canvas, type = "image/png", quality = ANNOTATED_QUALITY) {
  return new Promise((resolve) => canvas.toBlob(resolve, type, quality));
}

// A field with its boxes, names and probabilities, as large as its preview.
async function annotatedPicture(index) {
  const field = state.fields[index], picture = await loadPicture(field.preview), zoom = picture.naturalWidth / field.width;
  const canvas = h("canvas", { width: picture.naturalWidth, height: picture.naturalHeight }), pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const unit = Math.max(1, Math.min(canvas.width, canvas.height) / 240), size = Math.max(11, 9 * unit);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  for (const cell of liveCells(index)) {
    const group = groupOf(cell), color = colorOf(group), [left, top, right, bottom] = cell.box.map((side) => side * zoom);
    pen.strokeStyle = color;
    pen.lineWidth = Math.max(2, 1.5 * unit);
    pen.setLineDash(group === REFUSED ? [3 * unit, 2 * unit] : []);
    pen.strokeRect(left, top, right - left, bottom - top);
    const how = cell.hand ? "✓" : group === REFUSED ? "" : percent(cell.probabilities[cell.label]);
    const text = `${group === REFUSED ? tr(`reason.${reasonOf(cell)}`) : typeName(group)} ${how}`.trim(), width = pen.measureText(text).width + 6;
    const x = Math.max(0, Math.min(left, canvas.width - width)), y = top > size + 6 ? top - size - 6 : top;
    pen.fillStyle = color;
    pen.fillRect(x, y, width, size + 6);
    pen.fillStyle = isLight(color) ? "#000" : "#fff";
    pen.fillText(text, x + 3, y + 3);
  }
  return toBlob(canvas);
}

// The square around a cell, cut out of its field; beyond the image it has the colour of the background.
function cropPicture(picture, field, cell, size = null) {
  const zoom = picture.naturalWidth / field.width, [left, top, right] = cell.crop.map((side) => side * zoom);
  const side = Math.max(1, Math.round(right - left)), shown = size ?? side;
  const canvas = h("canvas", { width: shown, height: shown }), pen = canvas.getContext("2d");
  pen.fillStyle = `rgb(${(field.background ?? [255, 255, 255]).join()})`;
  pen.fillRect(0, 0, shown, shown);
  pen.scale(shown / side, shown / side);
  pen.drawImage(picture, -Math.round(left), -Math.round(top));
  return canvas;
}

async function exportPictures() {
  const names = fieldNames(), shown = state.fields.flatMap((field, index) => (field.preview ? [index] : []));
  if (shown.length === 1) return downloadFile(`${names[shown[0]]}-cells.png`, await annotatedPicture(shown[0]));
  const files = [];
  for (const index of shown) files.push([`${names[index]}-cells.png`, await bytesOf(await annotatedPicture(index))]);
  downloadFile("white-blood-cells-images.zip", zipFile(files));
}

// A folder for each type, as `hub dataset build folder` reads it.
async function exportCrops() {
  const names = fieldNames(), files = [];
  for (const [index, field] of state.fields.entries()) {
    if (!field.preview) continue;
    const picture = await loadPicture(field.preview);
    for (const cell of liveCells(index)) {
      const group = groupOf(cell);
      if (group === REFUSED || group === NOT_WHITE) continue;
      files.push([`${fileName(group)}/${names[index]}-${cellNumber(cell)}.png`, await bytesOf(await toBlob(cropPicture(picture, field, cell)))]);
    }
  }
  downloadFile("white-blood-cells-crops.zip", zipFile(files));
}

async function bytesOf(blob) {
  return new Uint8Array(await blob.arrayBuffer());
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// A ZIP archive whose files, pictures that are compressed already, are stored as they are; names are UTF-8.
function zipFile(files) {
  const DATE = 0x21, UTF8 = 0x800, content = [], directory = [];
  let offset = 0;
  for (const [name, bytes] of files) {
    const encoded = new TextEncoder().encode(name), fields = new DataView(new ArrayBuffer(26));
    // Version, flags, method, time, date, CRC-32, sizes, length of the name, length of the extra field.
    [[0, 20], [2, UTF8], [8, DATE], [22, encoded.length]].forEach(([at, value]) => fields.setUint16(at, value, true));
    [[10, crc32(bytes)], [14, bytes.length], [18, bytes.length]].forEach(([at, value]) => fields.setUint32(at, value, true));
    const place = new DataView(new ArrayBuffer(14));
    place.setUint32(10, offset, true);
    content.push("PK\x03\x04", fields.buffer, encoded, bytes);
    directory.push("PK\x01\x02", new Uint8Array([20, 0]), fields.buffer, place.buffer, encoded);
    offset += 30 + encoded.length + bytes.length;
  }
  const size = new Blob(directory).size, end = new DataView(new ArrayBuffer(18));
  [[4, files.length], [6, files.length]].forEach(([at, value]) => end.setUint16(at, value, true));
  [[8, size], [12, offset]].forEach(([at, value]) => end.setUint32(at, value, true));
  return new Blob([...content, ...directory, "PK\x05\x06", end.buffer], { type: "application/zip" });
}
