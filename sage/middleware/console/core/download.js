/** Files of the API, which need the session's token, saved as the browser saves others. */
import {request} from "./api.js"

/**
 * @param {string} path
 * @param {string} name of the file
 */
export async function download(path, name) {
  const bytes = await (await request("GET", path)).blob()
  const link = document.createElement("a")
  link.href = URL.createObjectURL(bytes)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}
