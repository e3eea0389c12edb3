/** Light or dark: as the system says, until the user chooses. */
import {signal} from "./html.js"

const KEPT = "sage-theme"
const dark = matchMedia("(prefers-color-scheme: dark)")
export const theme = signal(localStorage.getItem(KEPT) ?? (dark.matches ? "dark" : "light"))

export function startTheme() {
  show()
  dark.addEventListener("change", () => {
    if (!localStorage.getItem(KEPT)) { theme.value = dark.matches ? "dark" : "light"; show() }
  })
}

export function toggleTheme() {
  theme.value = theme.peek() === "dark" ? "light" : "dark"
  localStorage.setItem(KEPT, theme.peek())
  show()
}

function show() {
  document.documentElement.dataset.theme = theme.peek()
}
