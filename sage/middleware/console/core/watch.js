/** What the gateway tells whenever it changes (`?watch=true`), for as long as it is looked at. */
import {follow} from "./api.js"
import {useEffect, useState} from "./html.js"

/**
 * The data that the events of `path` make: an event that is `whole`, or the first one, takes the place of what was known; of any other
 * `merge` makes the new data. While the page is hidden nothing is listened to: a browser has few connections to one host.
 * `error` is why the stream has broken off, until it is taken up again; `reload` does so at once.
 * @param {string} path
 * @param {(before: any, event: any) => any} [merge]
 * @returns {{data: any, error: any, loading: boolean, reload: () => void}}
 */
export function useWatched(path, merge = (_, event) => event) {
  const [state, set] = useState({path, data: /** @type {any} */ (undefined), error: /** @type {any} */ (undefined)})
  const [turn, next] = useState(0)
  const [isSeen, setSeen] = useState(!document.hidden)
  useEffect(() => {
    const look = () => setSeen(!document.hidden)
    document.addEventListener("visibilitychange", look)
    return () => document.removeEventListener("visibilitychange", look)
  }, [])
  useEffect(() => {
    if (!isSeen) return undefined
    const stop = new AbortController()
    const failed = error => stop.signal.aborted || set(before => ({...before, path, error}))
    const run = async () => {
      for await (const event of follow(path, stop.signal, failed)) {
        set(({path: of, data}) => ({path, error: undefined, data: event.whole || of !== path || !data ? event : merge(data, event)}))
      }
    }
    run().catch(failed)
    return () => stop.abort()
  }, [path, turn, isSeen])
  const {data, error} = state.path === path ? state : {data: undefined, error: undefined}
  return {data, error, loading: !data && !error, reload: () => next(count => count + 1)}
}

/** The list of models after an event of `/models?watch=true` that tells what has changed. */
export function mergeModels(before, {models, removed, ...rest}) {
  const changed = new Map(models.map(each => [each.name, each]))
  const gone = new Set(removed)
  const kept = before.models.filter(each => !gone.has(each.name)).map(each => changed.get(each.name) ?? each)
  const known = new Set(kept.map(each => each.name))
  return {...before, ...rest, models: [...kept, ...models.filter(each => !known.has(each.name))]}
}
