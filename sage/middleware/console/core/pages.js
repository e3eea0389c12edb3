/** Lists that come in pages, the newest first. */
import {get} from "./api.js"
import {useLoaded, useState} from "./html.js"

/**
 * The pages of `path` that were loaded so far; `next` adds the one behind `cursor`, which is null after the last.
 * Another `path` begins anew, as does `reload`; `refresh` loads the first page alone.
 * @param {string} path with a query
 * @param {{parameter?: string, field?: string}} [names] the query's parameter of the next page, and the field that gives it
 */
export function usePages(path, {parameter = "cursor", field = "cursor"} = {}) {
  const first = useLoaded(stop => get(path, stop), [path])
  const [later, setLater] = useState({path, pages: /** @type {any[]} */ ([])})
  const further = later.path === path ? later.pages : []
  const pages = first.data ? [first.data, ...further] : []
  const cursor = pages.at(-1)?.[field]
  return {
    pages,
    cursor,
    error: first.error,
    next: async () => setLater({path, pages: [...further, await get(`${path}&${parameter}=${encodeURIComponent(cursor)}`)]}),
    refresh: first.reload,
    reload: () => { setLater({path, pages: []}); first.reload() },
  }
}
