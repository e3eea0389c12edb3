/** What stands around every page: the menu, the language, the theme, the user. */
import {focusHeading} from "../core/focus.js"
import {html, useEffect, useLayoutEffect, useRef, useSignal, useState} from "../core/html.js"
import {LANGUAGES, language, t, useLanguage} from "../core/language.js"
import {address, place} from "../core/router.js"
import {hasAccounts, logOut, me} from "../core/session.js"
import {theme, toggleTheme} from "../core/theme.js"
import {Icon} from "./icon.js"
import {prepare} from "./page.js"
import {Toasts, told} from "./toast.js"

export function Shell({pages, children}) {
  const {page, rest} = useSignal(place)
  const shown = useRef("")
  const [open, setOpen] = useState(false)
  const main = useRef(null)
  const button = useRef(null)
  useEffect(() => {
    setOpen(false)
    document.title = `${rest ? `${rest} · ` : ""}${t(`page.${page}`)} · SAGE`
    const isNew = shown.current !== page
    shown.current = page
    const had = document.activeElement
    if (!isNew && had && had !== document.body && had !== main.current) return // the focus is at what stays, such as a tab
    main.current?.scrollTo(0, 0)
    return focusHeading()
  }, [page, rest])
  useLayoutEffect(() => {
    if (!open) return
    const leave = event => {
      if (event.key !== "Escape") return
      setOpen(false)
      button.current.focus()
    }
    addEventListener("keydown", leave)
    return () => removeEventListener("keydown", leave)
  }, [open])
  return html`
    <a class="skip" href="#main" onClick=${event => { event.preventDefault(); main.current.focus() }}>${t("shell.skip")}</a>
    <header class="bar">
      <button ref=${button} class="quiet menu" aria-expanded=${open} aria-controls="menu" aria-label=${t("shell.menu")}
              onClick=${() => setOpen(!open)}><${Icon} name=${open ? "close" : "menu"} /></button>
      <a class="brand" href="#/"><img src="/console/icon.svg" alt="" width="24" height="24" /> SAGE</a>
      <span class="spring" />
      <${Choices} />
      <${User} />
    </header>
    <nav id="menu" class=${open ? "open" : ""} aria-label=${t("shell.pages")}>
      ${GROUPS.map(group => html`<${Group} key=${group} name=${group} now=${page} pages=${pages.filter(each => (each.group ?? "run") === group)} />`)}
    </nav>
    <main id="main" ref=${main} tabindex="-1">${children}</main>
    <${Toasts} />`
}

const GROUPS = ["use", "run", "watch", "govern"]

/** Some pages of the menu, under their heading. */
const Group = ({name: group, pages, now}) => pages.length > 0 && html`
  <h2 id=${`menu-${group}`}>${t(`menu.${group}`)}</h2>
  <div role="group" aria-labelledby=${`menu-${group}`}>${pages.map(page => html`
    <a key=${page.name} href=${address(page.name)} aria-current=${page.name === now ? "page" : undefined} onPointerEnter=${() => prepare(page)}>
      <${Icon} name=${page.name} /> ${t(`page.${page.name}`)}</a>`)}</div>`

/** The language and the theme; also on the page that logs in. */
export function Choices() {
  const now = useSignal(language)
  const shade = useSignal(theme)
  return html`
    <label class="sr-only" for="language">${t("shell.language")}</label>
    <select id="language" class="quiet" value=${now} onChange=${event => useLanguage(event.target.value)}>
      ${Object.entries(LANGUAGES).map(([code, name]) => html`<option value=${code} lang=${code}>${name}</option>`)}
    </select>
    <button class="quiet" onClick=${toggleTheme} aria-label=${t(shade === "dark" ? "shell.light" : "shell.dark")}>
      <${Icon} name=${shade === "dark" ? "sun" : "moon"} /></button>`
}

function User() {
  const found = useSignal(me)
  if (!hasAccounts.peek() || !found) return html`<span class="dim">${t("shell.open")}</span>`
  const leave = async () => { if (!await logOut()) told(t("shell.still_in")) }
  return html`
    <a class="user" href=${address("account")} title=${`${found.role} · ${found.tenant}`}>${found.user}</a>
    <button class="quiet" onClick=${leave} aria-label=${t("action.log_out")} title=${t("action.log_out")}><${Icon} name="leave" /></button>`
}
