/** A page of the menu: what draws it is loaded when it is first shown, and a fault in it leaves the others alone. */
import {html, useEffect, useErrorBoundary, useState} from "../core/html.js"
import {t} from "../core/language.js"
import {PageHead} from "./page_head.js"
import {Failure, Waiting} from "./notice.js"

/** @typedef {{name: string, load: () => Promise<any>}} PageEntry */

/** @type {Map<string, any>} what draws a page, by its name */
const views = new Map()

/** Loads what draws a page; raises an error that says what failed. */
async function viewOf(/** @type {PageEntry} */ page) {
  try {
    if (!views.has(page.name)) views.set(page.name, await page.load())
  } catch (cause) {
    console.error(cause)
    throw new Error(t("error.page", {page: t(`page.${page.name}`)}), {cause})
  }
  return views.get(page.name)
}

/** To be called when a page is likely to be shown soon. */
export const prepare = (/** @type {PageEntry} */ page) => { viewOf(page).catch(() => {}) } // its turn comes when it is shown

/** @param {{page: PageEntry}} properties */
export function Page({page}) {
  const [error, setError] = useState(/** @type {Error | undefined} */ (undefined))
  const [, setDone] = useState(false)
  const [turn, setTurn] = useState(0)
  useEffect(() => {
    let isShown = true
    viewOf(page).then(() => isShown && setDone(true), failed => isShown && setError(failed))
    return () => { isShown = false }
  }, [turn])
  const View = views.get(page.name)
  if (View) return html`<${Guarded} view=${View} />`
  const again = () => { setError(undefined); setTurn(turn + 1) }
  return error ? html`<${PageHead} title=${t(`page.${page.name}`)} /><${Failure} error=${error} retry=${again} />` : html`<${Waiting} />`
}

/** A page that fails shows why. */
function Guarded({view: View}) {
  const [error, reset] = useErrorBoundary()
  return error ? html`<${Failure} error=${error} retry=${reset} />` : html`<${View} />`
}
