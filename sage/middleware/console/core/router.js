/** Which page is shown: the part of the address behind `#`, which never leaves the browser. */
import {signal} from "./html.js"

/** `{page, rest, query}` of `#/models/name?x=1`. */
export const place = signal(read())

function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?")
  const [page, ...rest] = path.split("/").map(decoded)
  return {page, rest: rest.join("/"), query: new URLSearchParams(query)}
}

/** A part of the address; what is no encoding stands for itself. */
function decoded(/** @type {string} */ part) {
  try { return decodeURIComponent(part) } catch { return part }
}

addEventListener("hashchange", () => { place.value = read() })

export const address = (page, rest = "") => `#/${page}${rest ? `/${encodeURIComponent(rest.toWellFormed())}` : ""}`
export const go = (page, rest) => { location.hash = address(page, rest) }
