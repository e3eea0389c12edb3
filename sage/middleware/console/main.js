/** Starts the console: theme, language, session; then the page that the address names. */
import {Page} from "./components/page.js"
import {Shell} from "./components/shell.js"
import {keepFocus} from "./core/focus.js"
import {html, render, useSignal} from "./core/html.js"
import {language, startLanguage} from "./core/language.js"
import {place} from "./core/router.js"
import {me, may, resume} from "./core/session.js"
import {startTheme} from "./core/theme.js"
import {PAGES} from "./pages/pages.js"
import {Welcome} from "./pages/welcome.js"

function Console() {
  useSignal(language)
  const user = useSignal(me)
  const {page} = useSignal(place)
  if (user === undefined) return null
  if (user === null) return html`<${Welcome} />`
  const pages = PAGES.filter(each => each.isFor(may.peek()))
  const shown = pages.find(each => each.name === page) ?? pages[0]
  if (shown.name !== page) place.value = {...place.peek(), page: shown.name, rest: ""}
  return html`<${Shell} pages=${pages}><${Page} key=${shown.name} page=${shown} /><//>`
}

startTheme()
keepFocus()
await Promise.all([startLanguage(), resume()])
render(html`<${Console} />`, document.getElementById("app"))
