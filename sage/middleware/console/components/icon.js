/** Line icons, drawn in the colour of the text beside them. */
import {html} from "../core/html.js"

const PATHS = {
  overview: "M3 13h4l3-8 4 14 3-6h4",
  playground: "M4 5h16v11H9l-5 4z",
  models: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  requests: "M4 6h16M4 12h16M4 18h10",
  usage: "M5 20V10M12 20V4M19 20v-7",
  keys: "M14 10a4 4 0 1 0-3.5 4L13 16v2h2v2h3v-3l-4.5-4.5A4 4 0 0 0 14 10z",
  connect: "M9 7L4 12l5 5M15 7l5 5-5 5",
  copy: "M9 9h10v11H9zM5 15V4h10",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M19 5l-1.5 1.5M6.5 17.5L5 19",
  moon: "M20 14A8 8 0 1 1 10 4a6.5 6.5 0 0 0 10 10z",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  stop: "M7 7h10v10H7z",
  send: "M4 12l16-8-6 16-2.5-6.5z",
}

export const Icon = ({name}) => html`
  <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`
