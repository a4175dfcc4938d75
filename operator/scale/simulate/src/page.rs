//! The page with the table, from all traces and several seeds.
