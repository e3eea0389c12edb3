/** What follows events that may come many times a second. */
import {useEffect, useRef} from "./html.js"

/**
 * A function that has `act` called soon: at most once in so many milliseconds, and once more after the last call.
 * @param {() => void} act
 * @param {number} pause
 */
export function useSoon(act, pause) {
  const latest = useRef(act)
  latest.current = act
  const timer = useRef(0)
  useEffect(() => () => clearTimeout(timer.current), [])
  return () => { timer.current ||= window.setTimeout(() => { timer.current = 0; latest.current() }, pause) }
}
