"""A trained model as a service, with a page for the browser. Needs the extra `web`."""
