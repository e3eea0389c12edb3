/** Where the API has a model: names may have slashes, which stay. */
export const modelPath = name => `/models/${name.split("/").map(encodeURIComponent).join("/")}`
