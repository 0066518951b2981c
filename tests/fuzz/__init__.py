"""Whatever comes: nothing breaks, hangs, grows or forges, and nobody sees what is another's."""
