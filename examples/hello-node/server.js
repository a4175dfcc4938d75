// An ordinary Node server: one process, one port. It knows nothing of cores, clusters or
// ScaledApp, and also runs by itself with `node server.js`.
'use strict';
const http = require('http');
const os = require('os');
const { version } = require('./package.json');

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://app');
  const answer = (more = {}) => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({
      pid: process.pid,
      worker: `${os.hostname()}/${process.pid}`,
      instance: process.env.NODE_APP_INSTANCE,
      path: url.pathname,
      version,
      ...more,
    }) + '\n');
  };

  // A body is echoed, with its length in bytes.
  if (request.method === 'POST') {
    const pieces = [];
    request.on('data', (piece) => pieces.push(piece));
    request.on('end', () => {
      const body = Buffer.concat(pieces);
      answer({ length: body.length, body: body.toString() });
    });
    return;
  }
  switch (url.pathname) {
    case '/':
    case '/healthz':
      answer();
      break;
    case '/slow':
      setTimeout(answer, Number(url.searchParams.get('ms')) || 0);
      break;
    default:
      response.statusCode = 404;
      answer();
  }
});

server.listen(process.env.PORT || 3000);
