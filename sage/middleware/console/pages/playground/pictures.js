/** Pictures for a question: read as data URLs, and refused with the reason where the gateway or models would not take them. */
import {bytes} from "../../core/format.js"
import {t} from "../../core/language.js"

/** What OpenAI's wire takes. */
export const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"]
/** Bytes of all pictures of a conversation: a request has them all, a third larger, and the gateway takes 32 MiB. */
export const MOST = 20 * 2 ** 20

/**
 * Reads `files`; `used` bytes are taken by earlier pictures.
 * @returns {Promise<{pictures: import("./conversation.js").Picture[], faults: string[]}>}
 */
export async function readPictures(files, used, names) {
  const pictures = []
  const faults = []
  for (const file of files) {
    if (!KINDS.includes(file.type)) faults.push(t("playground.not_picture", {name: file.name}))
    else if (used + file.size > MOST) faults.push(t("playground.large", {name: file.name, size: bytes(file.size), most: bytes(MOST)}))
    else {
      used += file.size
      pictures.push({name: free(file.name, [...names, ...pictures.map(each => each.name)]), type: file.type,
        size: file.size, url: await dataUrl(file)})
    }
  }
  return {pictures, faults}
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
