//! No circle of imports: of two files at most one knows the other, over any number of files
//! between them. A reader can then begin at the bottom and never meets what is not yet known.
//!
//! A module and those inside it count as one room: there a circle is how Rust writes a parent
//! that lists its children, and children that use what they share.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree};

/// A module by its steps from the root of its crate, the name of the crate first.
type ModulePath = Vec<String>;

/// More re-exports than any name passes.
const REEXPORTS_MAX: usize = 8;

/// The modules of a crate and what each of them imports.
#[derive(Default)]
struct Modules(BTreeMap<ModulePath, Imports>);

/// The imports of one file by the name that they have there.
#[derive(Default)]
struct Imports {
    given: Vec<Vec<String>>,
    by_name: BTreeMap<String, Vec<String>>,
    defined: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item(&mut self, item: &'ast Item) {
        let ident = match item {
            Item::Const(item) => Some(&item.ident),
            Item::Enum(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Static(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            _ => None,
        };
        self.defined.extend(ident.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|p| p.is_ident("test"))
        });
        if !is_test {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let steps: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if steps.len() > 1 {
            self.given.push(steps);
        }
        visit::visit_path(self, path);
    }
}

impl Imports {
    fn add(&mut self, tree: &UseTree, steps: &mut Vec<String>) {
        let mut note = |steps: Vec<String>, name: String| {
            self.given.push(steps.clone());
            self.by_name.insert(name, steps);
        };
        let with = |step: String| steps.iter().cloned().chain([step]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => {
                steps.push(path.ident.to_string());
                self.add(&path.tree, steps);
                steps.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                let name = steps.last().cloned().unwrap_or_default();
                note(steps.clone(), name);
            }
            UseTree::Name(name) => note(with(name.ident.to_string()), name.ident.to_string()),
            UseTree::Rename(name) => note(with(name.ident.to_string()), name.rename.to_string()),
            UseTree::Glob(_) => self.given.push(steps.clone()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add(tree, steps);
                }
            }
        }
    }
}

impl Modules {
    /// Reads the sources below `folder`, without the tests among them.
    fn read(crate_name: &str, folder: &Path) -> Self {
        let mut modules = Self::default();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(at) = folders.pop() {
            for entry in fs::read_dir(&at).expect("a folder") {
                let path = entry.expect("an entry").path();
                let name = path.file_stem().and_then(|stem| stem.to_str());
                if path.is_dir() && name != Some("tests") && name != Some("bin") {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") && name != Some("tests") {
                    let source = fs::read_to_string(&path).expect("UTF-8");
                    let mut imports = Imports::default();
                    imports.visit_file(&syn::parse_file(&source).expect("Rust"));
                    modules
                        .0
                        .insert(module_path(crate_name, folder, &path), imports);
                }
            }
        }
        modules
    }

    /// The file that defines what `from` means by `steps`.
    fn find(&self, from: &ModulePath, steps: &[String]) -> Option<ModulePath> {
        let (mut from, mut steps) = (from.clone(), steps.to_vec());
        for _ in 0..REEXPORTS_MAX {
            let (at, rest) = self.walk(&from, &steps)?;
            let Some(name) = rest.first() else {
                return Some(at);
            };
            let imports = self.0.get(&at)?;
            let Some(reexport) = imports.by_name.get(name).filter(|_| at != from) else {
                return imports.defined.contains(name).then_some(at);
            };
            // What a crate gives to others is the language that all of it speaks.
            if at.len() == 1 {
                return None;
            }
            steps = reexport.iter().chain(rest.get(1..)?).cloned().collect();
            from = at;
        }
        None
    }

    /// The deepest module on the way, and the steps that are left.
    fn walk<'a>(
        &self,
        from: &ModulePath,
        steps: &'a [String],
    ) -> Option<(ModulePath, &'a [String])> {
        let mut at = from.clone();
        let mut left = steps;
        let mut is_anchored = false;
        while let Some((step, rest)) = left.split_first() {
            match step.as_str() {
                "crate" => at.truncate(1),
                "self" => {}
                "super" => {
                    at.pop();
                }
                name => {
                    at.push(name.to_owned());
                    if !self.0.contains_key(&at) {
                        at.pop();
                        break;
                    }
                }
            }
            is_anchored = true;
            left = rest;
        }
        is_anchored.then_some((at, left))
    }

    /// Which file takes something from which.
    fn edges(&self) -> BTreeMap<&ModulePath, BTreeSet<ModulePath>> {
        let edges_of = |(from, imports): (_, &Imports)| {
            let targets = imports.given.iter().filter_map(|steps| {
                let first = steps.first()?;
                let meant = imports.by_name.get(first).filter(|_| steps.len() > 1);
                let whole: Vec<String> = match meant {
                    Some(meant) => meant.iter().chain(steps.get(1..)?).cloned().collect(),
                    None => steps.clone(),
                };
                self.find(from, &whole)
            });
            let is_other_room =
                |to: &ModulePath| !to.starts_with(from) && !from.starts_with(to.as_slice());
            (from, targets.filter(is_other_room).collect())
        };
        self.0.iter().map(edges_of).collect()
    }

    /// The files that reach themselves, each with those on the shortest way back.
    fn circles(&self) -> Vec<String> {
        let edges = self.edges();
        let mut circles = BTreeSet::new();
        for start in self.0.keys() {
            let mut ways = vec![vec![start.clone()]];
            let mut seen = BTreeSet::new();
            while !ways.is_empty() {
                let mut longer = Vec::new();
                for way in ways {
                    for to in way
                        .last()
                        .and_then(|at| edges.get(at))
                        .into_iter()
                        .flatten()
                    {
                        if to == start {
                            let mut names: Vec<_> = way.iter().map(|m| m.join("::")).collect();
                            names.sort();
                            circles.insert(names.join(", "));
                        } else if seen.insert(to.clone()) {
                            longer.push(way.iter().chain([to]).cloned().collect());
                        }
                    }
                }
                ways = longer;
            }
        }
        circles.into_iter().collect()
    }
}

fn module_path(crate_name: &str, folder: &Path, file: &Path) -> ModulePath {
    let inside = file
        .strip_prefix(folder)
        .expect("inside")
        .with_extension("");
    let steps = inside
        .iter()
        .map(|step| step.to_string_lossy().into_owned());
    let is_root = |step: &String| !matches!(step.as_str(), "mod" | "lib" | "main");
    let steps = steps.filter(is_root);
    [crate_name.to_owned()].into_iter().chain(steps).collect()
}

#[test]
fn no_files_import_each_other() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let crates = fs::read_dir(root.join("crates")).expect("crates");
    let mut folders: Vec<_> = crates.map(|entry| entry.expect("a crate").path()).collect();
    folders.push(root.join("xtask"));
    let circles: Vec<_> = folders
        .iter()
        .flat_map(|folder| {
            let name = folder.file_name().expect("a name").to_string_lossy();
            Modules::read(&name, &folder.join("src")).circles()
        })
        .collect();
    assert!(circles.is_empty(), "{circles:#?}");
}
