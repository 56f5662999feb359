const express = require("express");

const app = express();
const port = Number(process.env.PORT || 3000);

app.get("/", (req, res) => {
  const { MINI_APP = "node", MINI_RELEASE = "here" } = process.env;
  res.type("text").send(`hello from ${MINI_APP} ${MINI_RELEASE}, on node ${process.versions.node}\n`);
});

app.get("/up", (req, res) => res.type("text").send("up\n"));

const server = app.listen(port, "0.0.0.0", () => console.log(`listening on ${port}`));

// Take no new connections, finish the answers under way, then leave.
process.on("SIGTERM", () => {
  console.log("SIGTERM: finishing");
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
