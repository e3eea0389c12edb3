/** Pictures for a question: read as data URLs, and refused with the reason where the gateway or models would not take them. */
import {bytes} from "../../core/format.js"
import {t} from "../../core/language.js"

/** What OpenAI's wire takes. */
export const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"]
/** Bytes of all pictures of a conversation: a request has them all, a third larger, and the gateway takes 32 MiB. */
export const MOST = 20 * 2 ** 20

/** Bytes of one file that is read at all. */
export const MOST_OF_FILE = 50 * 2 ** 20
/** Pixels of the longer side: vendors shrink what is larger themselves, after it was sent (OpenAI to 2,048, Anthropic to 1,568). */
const SIDE = 2048
/** Bytes of one picture: Anthropic takes 5 MB in base64. */
const HEAVY = 3.5 * 2 ** 20

/**
 * Reads `files`; `used` bytes are taken by earlier pictures. What is larger than models take is shrunk.
 * @returns {Promise<{pictures: import("./conversation.js").Picture[], faults: string[]}>}
 */
export async function readPictures(files, used, names) {
  const pictures = []
  const faults = []
  for (const file of files) {
    try {
      if (!KINDS.includes(file.type)) throw new Error(t("playground.not_picture", {name: file.name}))
      if (file.size > MOST_OF_FILE) throw new Error(t("playground.large_file", {name: file.name, size: bytes(file.size), most: bytes(MOST_OF_FILE)}))
      const {blob, shrunk} = await fitting(file)
      if (used + blob.size > MOST) throw new Error(t("playground.large", {name: file.name, size: bytes(blob.size), most: bytes(MOST)}))
      used += blob.size
      const name = blob.type === file.type ? file.name : `${file.name.replace(/\.[^.]*$/, "")}.${blob.type.slice(6)}`
      pictures.push({name: free(name, [...names, ...pictures.map(each => each.name)]), type: blob.type,
        size: blob.size, url: await dataUrl(blob), shrunk})
    } catch (fault) {
      faults.push(fault.message)
    }
  }
  return {pictures, faults}
}

/** The picture as it is sent, and what was done to it. */
async function fitting(file) {
  const bitmap = await createImageBitmap(file).catch(() => { throw new Error(t("playground.broken_picture", {name: file.name})) })
  try {
    const {width, height} = bitmap
    const longest = Math.max(width, height)
    if (longest <= SIDE && file.size <= HEAVY) return {blob: file, shrunk: ""}
    for (let side = Math.min(SIDE, longest); ; side *= 0.7) {
      const canvas = drawn(bitmap, Math.min(1, side / longest))
      for (const [type, quality] of [[file.type, 0.92], ["image/jpeg", 0.88], ["image/jpeg", 0.7]]) {
        const blob = await encoded(canvas, type, quality)
        if (blob.size > HEAVY) continue
        const told = (wide, high, size) => `${wide} × ${high}, ${bytes(size)}`
        return {blob, shrunk: `${told(width, height, file.size)} → ${told(canvas.width, canvas.height, blob.size)}`}
      }
    }
  } finally {
    bitmap.close()
  }
}

function drawn(bitmap, scale) {
  const canvas = document.createElement("canvas")
  canvas.width = Math.max(1, Math.round(bitmap.width * scale))
  canvas.height = Math.max(1, Math.round(bitmap.height * scale))
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"))
  pen.imageSmoothingQuality = "high"
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
  return canvas
}

/** A JPEG has no transparency: it gets white instead of black. */
async function encoded(canvas, type, quality) {
  if (type === "image/jpeg") {
    const pen = canvas.getContext("2d")
    pen.globalCompositeOperation = "destination-over"
    pen.fillStyle = "#fff"
    pen.fillRect(0, 0, canvas.width, canvas.height)
  }
  return new Promise((done, fail) => canvas.toBlob(blob => blob ? done(blob) : fail(new Error(t("playground.too_many_pixels"))), type, quality))
}

/** A name that none has yet: what is pasted is always called the same. */
function free(name, names) {
  const [, stem, ending] = name.match(/^(.*?)(\.[^.]*)?$/s)
  for (let number = 2, tried = name; ; number += 1) {
    if (!names.includes(tried)) return tried
    tried = `${stem}-${number}${ending ?? ""}`
  }
}

function dataUrl(file) {
  return new Promise((done, fail) => {
    const reader = new FileReader()
    reader.onload = () => done(String(reader.result))
    reader.onerror = () => fail(reader.error)
    reader.readAsDataURL(file)
  })
}
