// A photo's file -> its picture as the service sees it: turned upright.

const ORIENTATION_TAG = 0x112;
// EXIF orientation -> columns of the matrix that turns a picture of size 1 upright about its middle.
const TURNS = {
  2: [-1, 0, 0, 1], 3: [-1, 0, 0, -1], 4: [1, 0, 0, -1],
  5: [0, 1, 1, 0], 6: [0, 1, -1, 0], 7: [0, -1, -1, 0], 8: [0, -1, 1, 0],
};

// Browsers turn JPEG and PNG by themselves; whether they turn WebP differs. Rejects what is no picture.
export async function uprightPicture(file) {
  const turn = TURNS[await webpOrientation(file)];
  if (!turn) return decoded(file);
  const stored = await createImageBitmap(file, { imageOrientation: "none" });
  const swapped = turn[0] === 0;
  const upright = document.createElement("canvas");
  upright.width = swapped ? stored.height : stored.width;
  upright.height = swapped ? stored.width : stored.height;
  const context = upright.getContext("2d");
  context.setTransform(...turn, upright.width / 2, upright.height / 2);
  context.drawImage(stored, -stored.width / 2, -stored.height / 2);
  stored.close();
  return upright;
}

async function decoded(file) {
  const url = URL.createObjectURL(file);
  try {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    return picture;
  } finally {
    URL.revokeObjectURL(url);
  }
}

// 1 where the file is no WebP or says nothing. Chunks follow a head of 12 bytes, each padded to an even length.
async function webpOrientation(file) {
  let head = await part(file, 0, 12);
  if (text(head, 0) !== "RIFF" || text(head, 8) !== "WEBP") return 1;
  for (let at = 12; at + 8 <= file.size; ) {
    head = await part(file, at, 8);
    const size = head.getUint32(4, true);
    if (text(head, 0) === "EXIF") return tiffOrientation(await part(file, at + 8, size));
    at += 8 + size + (size % 2);
  }
  return 1;
}

// TIFF 6.0: byte order, 42, place of the first directory; entries of tag, type, count and value.
function tiffOrientation(exif) {
  const start = text(exif, 0) === "Exif" ? 6 : 0;
  if (exif.byteLength < start + 8) return 1;
  const little = exif.getUint16(start) === 0x4949;
  const directory = start + exif.getUint32(start + 4, little);
  if (directory + 2 > exif.byteLength) return 1;
  const entries = exif.getUint16(directory, little);
  for (let entry = directory + 2; entry < directory + 2 + 12 * entries && entry + 12 <= exif.byteLength; entry += 12) {
    if (exif.getUint16(entry, little) === ORIENTATION_TAG) return exif.getUint16(entry + 8, little);
  }
  return 1;
}

async function part(file, from, length) {
  return new DataView(await file.slice(from, from + length).arrayBuffer());
}

function text(view, from) {
  return from + 4 > view.byteLength ? "" : String.fromCharCode(...new Uint8Array(view.buffer, from, 4));
}
