/** Filters that live in the address of a page, so that a view can be shared. */
import {useSignal} from "./html.js"
import {address, place} from "./router.js"

/**
 * The values of the address for the names in `defaults`, and what changes some of them. The last view takes the place of the one before:
 * *back* leads to the page before.
 * @param {Record<string, string>} defaults
 * @returns {[Record<string, string>, (changes: Record<string, string>, rest?: string) => void]}
 */
export function useQuery(defaults) {
  const {page, rest, query} = useSignal(place)
  const values = {...defaults}
  for (const name of Object.keys(defaults)) values[name] = query.get(name) ?? defaults[name]
  const set = (changes, next = rest) => {
    history.replaceState(null, "", addressOf(page, next, {...values, ...changes}, defaults))
    dispatchEvent(new HashChangeEvent("hashchange"))
  }
  return [values, set]
}

/**
 * The address of a view with filters.
 * @param {string} page
 * @param {string} rest
 * @param {Record<string, string>} values
 * @param {Record<string, string>} [defaults] what need not be said
 */
export function addressOf(page, rest, values, defaults = {}) {
  const said = Object.entries(values).filter(([name, value]) => value && value !== defaults[name])
  return address(page, rest) + (said.length ? `?${new URLSearchParams(said)}` : "")
}

/** The query of an API's path: what has a value, without spaces around it. */
export function queryOf(/** @type {Record<string, string | number | undefined | null>} */ values) {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(values)) {
    const text = String(value ?? "").trim()
    if (text) query.set(name, text)
  }
  return String(query)
}
