/** The pages, in the order of the menu, each with the scopes that it needs. */
import {Connect} from "./connect.js"
import {Keys} from "./keys.js"
import {Models} from "./models.js"
import {Overview} from "./overview.js"
import {Playground} from "./playground.js"
import {Requests} from "./requests.js"
import {Usage} from "./usage.js"

export const PAGES = [
  {name: "overview", view: Overview, scopes: ["models:read"]},
  {name: "playground", view: Playground, scopes: ["generate", "models:read"]},
  {name: "models", view: Models, scopes: ["models:read"]},
  {name: "requests", view: Requests, scopes: ["usage"]},
  {name: "usage", view: Usage, scopes: ["usage"]},
  {name: "keys", view: Keys, scopes: ["account"]},
  {name: "connect", view: Connect, scopes: ["models:read"]},
]
