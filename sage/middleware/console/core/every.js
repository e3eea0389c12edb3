/** What is done again and again while something is going on. */
import {useEffect, useRef} from "./html.js"

/**
 * Calls `act` every so many milliseconds while `goes` holds and the page is seen.
 * @param {() => void} act
 * @param {boolean} goes
 */
export function useEvery(act, goes, pause = 2000) {
  const latest = useRef(act)
  latest.current = act
  useEffect(() => {
    if (!goes) return undefined
    const timer = setInterval(() => document.hidden || latest.current(), pause)
    return () => clearInterval(timer)
  }, [goes, pause])
}
