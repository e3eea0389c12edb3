/** What went wrong, or what is not there yet and what to do. */
import {html} from "../core/html.js"
import {t} from "../core/language.js"

/** An error of the API, with the id that finds it in the gateway's log. */
export const Failure = ({error, retry}) => error && html`
  <div class="notice bad" role="alert">
    <p>${error.message}</p>
    ${error.requestId && html`<p class="dim">${t("error.request", {id: error.requestId})}</p>`}
    ${retry && html`<button class="quiet" onClick=${retry}>${t("action.retry")}</button>`}
  </div>`

/** An empty state: what would stand here, and how it comes about. */
export const Empty = ({title, children}) => html`
  <div class="empty"><h2>${title}</h2>${children}</div>`

/** A place that waits for its data; screen readers are told once. */
export const Waiting = () => html`
  <div class="waiting skeleton" role="status"><p class="sr-only">${t("state.loading")}</p><span /><span /><span /></div>`
