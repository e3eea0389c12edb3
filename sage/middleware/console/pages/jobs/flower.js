/** The way to Flower: its pages have a cookie of their own, which the login of the console opens. */
import {Failure} from "../../components/notice.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {hasAccounts} from "../../core/session.js"

export function FlowerLink() {
  const [failed, setFailed] = useState(undefined)
  if (!hasAccounts.peek()) return html`<a class="button" href="/flower" target="_blank" rel="noopener">Flower</a>`
  const open = async () => {
    const tab = window.open("about:blank", "_blank") // now: later a browser takes it for a pop-up
    setFailed(undefined)
    try {
      await post("/auth/flower")
      if (tab) { tab.opener = null; tab.location.href = new URL("/flower/", location.href).href } else location.href = "/flower/"
    } catch (problem) {
      tab?.close()
      setFailed(problem)
    }
  }
  return html`<button onClick=${open} title=${t("jobs.flower_hint")}>Flower ↗</button><${Failure} error=${failed} />`
}
