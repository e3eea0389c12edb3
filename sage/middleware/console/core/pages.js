/** Lists that come in pages, the newest first. */
import {get} from "./api.js"
import {useLoaded, useRef, useState} from "./html.js"

/**
 * The pages of `path` that were loaded so far; `next` adds the one behind `cursor`, which is null after the last. `more` does so, too,
 * for a table that is scrolled to its end: it is null where there is none, and after one that did not come, which waits for `retry`.
 * Another `path` begins anew, as does `reload`; `refresh` loads the first page alone.
 * @param {string} path with a query
 * @param {{parameter?: string, field?: string}} [names] the query's parameter of the next page, and the field that gives it
 */
export function usePages(path, {parameter = "cursor", field = "cursor"} = {}) {
  const first = useLoaded(stop => get(path, stop), [path])
  const [later, setLater] = useState({path, pages: /** @type {any[]} */ ([]), error: /** @type {any} */ (undefined)})
  const asked = useRef("") // what is on its way: one page at a time
  const now = useRef(path) // the list that is shown
  now.current = path
  const further = later.path === path ? later.pages : []
  const failed = later.path === path ? later.error : undefined
  const pages = first.data ? [first.data, ...further] : []
  const cursor = pages.at(-1)?.[field]
  const next = async () => {
    const url = `${path}&${parameter}=${encodeURIComponent(cursor)}`
    if (!cursor || asked.current === url) return
    asked.current = url
    const isWanted = () => now.current === path && asked.current === url
    try {
      const page = await get(url)
      if (isWanted()) setLater({path, pages: [...further, page], error: undefined})
    } catch (error) {
      if (isWanted()) setLater({path, pages: further, error})
    }
    if (asked.current === url) asked.current = ""
  }
  const reload = () => { asked.current = ""; setLater({path, pages: [], error: undefined}); first.reload() }
  return {pages, cursor, error: first.error ?? failed, next, more: cursor && !failed ? next : null, retry: failed ? next : reload,
    refresh: first.reload, reload}
}
