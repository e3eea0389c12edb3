/** Where the API has a collection. */
export const path = (name, rest = "") => `/collections/${encodeURIComponent(name)}${rest}`
