// Takes out of the lock file what names hosts and pins nothing: where packages ask for donations.
import { readFileSync, writeFileSync } from 'node:fs';

const lock = new URL('package-lock.json', import.meta.url);
const withoutFunding = (key, value) => (key === 'funding' ? undefined : value);
writeFileSync(lock, `${JSON.stringify(JSON.parse(readFileSync(lock, 'utf8'), withoutFunding), null, 2)}\n`);
