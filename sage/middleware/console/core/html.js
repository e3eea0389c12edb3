/** The page's own view of the vendored libraries: hooks and templates, and signals that components follow. */
import {useEffect, useRef, useState} from "../vendor/preact-htm.js"
import {effect} from "../vendor/signals-core.js"

export {html, render, useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useRef, useState} from "../vendor/preact-htm.js"
export {computed, effect, signal} from "../vendor/signals-core.js"

/**
 * The value of a signal; the component is drawn anew when it changes.
 * @template T
 * @param {{value: T, peek(): T}} source
 * @returns {T}
 */
export function useSignal(source) {
  const [, redraw] = useState(0)
  const shown = useRef(/** @type {any} */ (undefined))
  shown.current = source.peek()
  useEffect(() => effect(() => { // it may have changed since it was drawn: effects begin after the page was painted
    if (source.value !== shown.current) redraw(count => count + 1)
  }), [source])
  return shown.current
}

/**
 * What `load` promises, loaded again when one of `needs` changes or `reload` is called.
 * @template T
 * @param {(stop: AbortSignal) => Promise<T>} load
 * @param {unknown[]} needs
 * @returns {{data: T | undefined, error: any, loading: boolean, reload: () => void}}
 */
export function useLoaded(load, needs = []) {
  const [state, set] = useState(/** @type {{data: T | undefined, error: any, loading: boolean}} */ (
    {data: undefined, error: undefined, loading: true}))
  const [turn, next] = useState(0)
  useEffect(() => {
    const stop = new AbortController()
    set(before => ({...before, loading: true}))
    load(stop.signal).then(
      data => stop.signal.aborted || set({data, error: undefined, loading: false}),
      error => stop.signal.aborted || set(before => ({...before, error, loading: false})),
    )
    return () => stop.abort()
  }, [...needs, turn])
  return {...state, reload: () => next(count => count + 1)}
}
