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
  const {page, query} = useSignal(place)
  const set = (changes, next = place.peek().rest) => { // the address as it is by now: another filter may have changed since a text was typed
    history.replaceState(null, "", addressOf(page, next, {...valuesIn(place.peek().query, defaults), ...changes}, defaults))
    dispatchEvent(new HashChangeEvent("hashchange"))
  }
  return [valuesIn(query, defaults), set]
}

const valuesIn = (/** @type {URLSearchParams} */ query, /** @type {Record<string, string>} */ defaults) =>
  Object.fromEntries(Object.entries(defaults).map(([name, value]) => [name, query.get(name) ?? value]))

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
