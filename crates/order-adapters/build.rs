//! Builds the crate again when a migration is added: the schema is part of the program, and
//! a file that is new is no dependency of anything yet.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations/postgres");
    println!("cargo::rerun-if-changed=../../migrations/sqlite");
}
