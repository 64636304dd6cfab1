// A server that installs graphile-worker's schema as it starts, and here ends then.
import { makeWorkerUtils } from 'graphile-worker';

const utils = await makeWorkerUtils({ connectionString: process.env.DATABASE_URL });
await utils.migrate();
await utils.release();
