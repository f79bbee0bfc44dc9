// The description of the HTTP interface, from this server, with requests to try out.

const KEPT = "mdserver-key"; // of the page at /, in this tab

const ui = globalThis.SwaggerUIBundle({
  url: new URL("api/openapi.json", document.baseURI).href,
  dom_id: "#docs",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  validatorUrl: null, // else it asks a server of its makers
  onComplete: () => {
    const key = sessionStorage.getItem(KEPT);
    if (key) ui.preauthorizeApiKey("key", key);
  },
});
