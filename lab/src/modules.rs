//! `cargo xtask modules`: the library's modules and what they import, as a picture.
//!
//! A module stands one row above the highest module that it imports. An import is drawn where no other import implies it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use drivers::workspace::Workspace;

const PICTURE: &str = "docs/modules.svg";

const ROW: f64 = 62.0;
const BOX_HEIGHT: f64 = 28.0;
/// Between the boxes of a row.
const GAP: f64 = 18.0;
/// Of a line that passes a row.
const LANE: f64 = 10.0;
const MARGIN: f64 = 12.0;

/// What is known of a module.
#[derive(Debug, Default)]
struct Module {
    imports: BTreeSet<String>,
    uses_wgpu: bool,
    /// Whether a feature of the package switches it on.
    optional: bool,
}

type Modules = BTreeMap<String, Module>;

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let modules = read(&workspace.root().join("src"))?;
    let path = workspace.root().join(PICTURE);
    std::fs::write(&path, draw(&modules)?).with_context(|| path.display().to_string())?;
    println!("{} modules in {}", modules.len(), path.display());
    Ok(ExitCode::SUCCESS)
}

/// The modules that lib.rs declares, each with all of its files, but for those without any import from or to others.
fn read(source: &Path) -> Result<Modules> {
    let lib = std::fs::read_to_string(source.join("lib.rs"))?;
    let mut modules = Modules::new();
    let mut attribute = "";
    for line in lib.lines() {
        let declared = line.trim_start_matches("pub ").strip_prefix("mod ");
        if let Some(name) = declared.and_then(|name| name.strip_suffix(';'))
            && !attribute.contains("cfg(test)")
        {
            let mut module =
                Module { optional: attribute.contains("feature = "), ..Module::default() };
            let file = source.join(format!("{name}.rs"));
            if file.is_file() {
                module.read(&file)?;
            }
            let folder = source.join(name);
            if folder.is_dir() {
                module.read_all(&folder)?;
            }
            module.imports.remove(name);
            modules.insert(name.to_owned(), module);
        }
        attribute = line;
    }
    ensure!(!modules.is_empty(), "{} declares no modules", source.display());
    let names: BTreeSet<String> = modules.keys().cloned().collect();
    for module in modules.values_mut() {
        // Modules that lib.rs makes of items of others aren't files.
        module.imports.retain(|name| names.contains(name));
    }
    let imported: BTreeSet<String> =
        modules.values().flat_map(|module| module.imports.iter().cloned()).collect();
    modules.retain(|name, module| !module.imports.is_empty() || imported.contains(name));
    Ok(modules)
}

impl Module {
    fn read_all(&mut self, folder: &Path) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => self.read_all(&path)?,
                false => self.read(&path)?,
            }
        }
        Ok(())
    }

    /// Adds what a file imports by `crate::`, but for its comments and tests.
    fn read(&mut self, file: &Path) -> Result<()> {
        if file.file_stem().is_some_and(|name| name == "tests") {
            return Ok(());
        }
        let text = std::fs::read_to_string(file)?;
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            self.uses_wgpu |= line.contains("wgpu::");
            for path in line.split("crate::").skip(1) {
                let end = path.find(|c: char| !c.is_ascii_lowercase() && c != '_');
                self.imports.insert(path[..end.unwrap_or(path.len())].to_owned());
            }
        }
        Ok(())
    }
}

/// Each module's row: 0 imports nothing.
fn rows(modules: &Modules) -> Result<BTreeMap<&str, usize>> {
    let mut rows = BTreeMap::new();
    while rows.len() < modules.len() {
        let placed = rows.len();
        for (name, module) in modules {
            let below = module.imports.iter().map(|import| rows.get(import.as_str()).copied());
            if let Some(below) = below.collect::<Option<Vec<usize>>>() {
                rows.insert(name.as_str(), below.iter().max().map_or(0, |row| row + 1));
            }
        }
        ensure!(rows.len() > placed, "the modules import each other in a circle");
    }
    Ok(rows)
}

/// What a module imports, and what that imports, and so on.
fn reached<'a>(modules: &'a Modules, name: &str, found: &mut BTreeSet<&'a str>) {
    for import in &modules[name].imports {
        if found.insert(import) {
            reached(modules, import, found);
        }
    }
}

/// The imports that no other import of the same module implies.
fn drawn(modules: &Modules) -> Vec<(&str, &str)> {
    let mut drawn = Vec::new();
    for (name, module) in modules {
        let mut implied = BTreeSet::new();
        for import in &module.imports {
            reached(modules, import, &mut implied);
        }
        let own = module.imports.iter().filter(|import| !implied.contains(import.as_str()));
        drawn.extend(own.map(|import| (name.as_str(), import.as_str())));
    }
    drawn
}

/// What takes place in a row: a module, or a line that passes.
struct Place<'a> {
    module: Option<&'a str>,
    width: f64,
    /// The middle.
    x: f64,
    neighbours: Vec<usize>,
}

/// Places by rows, and the lines from place to place.
#[derive(Default)]
struct Layout<'a> {
    rows: Vec<Vec<usize>>,
    places: Vec<Place<'a>>,
    /// Each import's places, from the module that imports down to the imported one.
    lines: Vec<Vec<usize>>,
}

impl<'a> Layout<'a> {
    fn new(modules: &'a Modules) -> Result<Self> {
        let row_of = rows(modules)?;
        let mut layout = Self::default();
        let mut place_of = BTreeMap::new();
        for (&name, &row) in &row_of {
            let width = 24.0 + 7.4 * name.len() as f64;
            place_of.insert(name, layout.add(row, Some(name), width));
        }
        for (from, to) in drawn(modules) {
            let passed = (row_of[to] + 1..row_of[from]).rev();
            let lanes: Vec<usize> = passed.map(|row| layout.add(row, None, LANE)).collect();
            let line = [vec![place_of[from]], lanes, vec![place_of[to]]].concat();
            for pair in line.windows(2) {
                layout.places[pair[0]].neighbours.push(pair[1]);
                layout.places[pair[1]].neighbours.push(pair[0]);
            }
            layout.lines.push(line);
        }
        // Every place moves to the middle of its neighbours, row by row, until that changes little.
        for _ in 0..60 {
            for row in (0..layout.rows.len()).chain((0..layout.rows.len()).rev()) {
                layout.arrange(row);
            }
        }
        let left =
            layout.places.iter().map(|place| place.x - place.width / 2.0).fold(f64::MAX, f64::min);
        layout.places.iter_mut().for_each(|place| place.x += MARGIN - left);
        Ok(layout)
    }

    fn add(&mut self, row: usize, module: Option<&'a str>, width: f64) -> usize {
        self.rows.resize_with(self.rows.len().max(row + 1), Vec::new);
        let x = self.rows[row].len() as f64 * 100.0;
        self.rows[row].push(self.places.len());
        self.places.push(Place { module, width, x, neighbours: Vec::new() });
        self.places.len() - 1
    }

    /// Orders a row by the middles of its places' neighbours, and sets each as near to there as the others leave it.
    fn arrange(&mut self, row: usize) {
        let places = &self.places;
        let wanted = |at: usize| match &places[at].neighbours[..] {
            [] => places[at].x,
            all => all.iter().map(|&other| places[other].x).sum::<f64>() / all.len() as f64,
        };
        let mut order: Vec<(f64, usize)> =
            self.rows[row].iter().map(|&at| (wanted(at), at)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Where places would overlap they are pushed apart around their common mean: groups of (sum, count), each place less
        // its distance from the row's first.
        let mut distances = vec![0.0];
        for pair in order.windows(2) {
            let apart = (places[pair[0].1].width + places[pair[1].1].width) / 2.0 + GAP;
            distances.push(distances[distances.len() - 1] + apart);
        }
        let mut groups: Vec<(f64, usize)> = Vec::new();
        let mean = |&(sum, count): &(f64, usize)| sum / count as f64;
        for ((wanted, _), distance) in order.iter().zip(&distances) {
            groups.push((wanted - distance, 1));
            while let [.., before, last] = &groups[..]
                && mean(before) > mean(last)
            {
                let joined = (before.0 + last.0, before.1 + last.1);
                groups.truncate(groups.len() - 2);
                groups.push(joined);
            }
        }
        let starts = groups.iter().flat_map(|group| std::iter::repeat_n(mean(group), group.1));
        for ((start, distance), (_, at)) in starts.zip(&distances).zip(&order) {
            self.places[*at].x = start + distance;
        }
        self.rows[row] = order.into_iter().map(|(_, at)| at).collect();
    }

    /// The middle of a row, counted from the top.
    fn y(&self, row: usize) -> f64 {
        MARGIN + BOX_HEIGHT / 2.0 + (self.rows.len() - 1 - row) as f64 * ROW
    }
}

fn draw(modules: &Modules) -> Result<String> {
    let layout = Layout::new(modules)?;
    let right = layout.places.iter().map(|place| place.x + place.width / 2.0).fold(0.0, f64::max);
    let (width, height) = (right + MARGIN, layout.y(0) + BOX_HEIGHT / 2.0 + MARGIN + 24.0);
    let mut row_of = vec![0; layout.places.len()];
    for (row, places) in layout.rows.iter().enumerate() {
        places.iter().for_each(|&at| row_of[at] = row);
    }
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" text-anchor=\"middle\">\n\
         <!-- Written by `cargo xtask modules`. -->\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#667\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    // Writing to a String can't fail.
    for line in &layout.lines {
        let mut path = String::new();
        for (step, pair) in line.windows(2).enumerate() {
            let [x0, x1] = [pair[0], pair[1]].map(|at| layout.places[at].x);
            // From a box's lower edge, through the lanes, to a box's upper edge.
            let [top, bottom] = [pair[0], pair[1]].map(|at| {
                let half = if layout.places[at].module.is_some() { BOX_HEIGHT / 2.0 } else { 0.0 };
                (layout.y(row_of[at]), half)
            });
            let (y0, y1) = (top.0 + top.1, bottom.0 - bottom.1);
            let middle = f64::midpoint(y0, y1);
            if step == 0 {
                let _ = write!(path, "M{x0:.0} {y0:.0}");
            }
            let _ = write!(path, "C{x0:.0} {middle:.0} {x1:.0} {middle:.0} {x1:.0} {y1:.0}");
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"#667\" marker-end=\"url(#tip)\"/>"
        );
    }
    for (at, place) in layout.places.iter().enumerate() {
        let Some(name) = place.module else { continue };
        let Module { uses_wgpu, optional, .. } = modules[name];
        let fill = if uses_wgpu { "#dbe8fb" } else { "#f6f3e4" };
        let dashes = if optional { " stroke-dasharray=\"4 3\"" } else { "" };
        let (x, y) = (place.x - place.width / 2.0, layout.y(row_of[at]));
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"{:.0}\" height=\"{BOX_HEIGHT}\" rx=\"5\" fill=\"{fill}\" stroke=\"#445\"{dashes}/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{name}</text>",
            y - BOX_HEIGHT / 2.0,
            place.width,
            place.x,
            y + 4.5
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{:.0}\" text-anchor=\"start\" font-size=\"12\" fill=\"#445\">Arrows: imports that no other import implies. \
         Blue: uses wgpu. Dashed: behind a feature.</text>\n</svg>",
        height - MARGIN
    );
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(imports: &[(&str, &[&str])]) -> Modules {
        let module = |names: &[&str]| Module {
            imports: names.iter().map(|&name| name.to_owned()).collect(),
            ..Module::default()
        };
        imports.iter().map(|(name, names)| ((*name).to_owned(), module(names))).collect()
    }

    #[test]
    fn implied_imports_are_left_out() {
        let modules = modules(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]);
        assert_eq!(drawn(&modules), [("a", "b"), ("b", "c")]);
        assert_eq!(rows(&modules).unwrap(), BTreeMap::from([("a", 2), ("b", 1), ("c", 0)]));
    }

    #[test]
    fn a_circle_is_refused() {
        assert!(rows(&modules(&[("a", &["b"]), ("b", &["a"])])).is_err());
    }

    #[test]
    fn places_of_a_row_dont_overlap() {
        let modules =
            modules(&[("a", &["d"]), ("b", &["d"]), ("c", &["d", "e"]), ("d", &[]), ("e", &[])]);
        let layout = Layout::new(&modules).unwrap();
        for row in &layout.rows {
            for pair in row.windows(2) {
                let [left, right] = [pair[0], pair[1]].map(|at| &layout.places[at]);
                assert!(right.x - left.x >= (left.width + right.width) / 2.0 + GAP - 1e-6);
            }
        }
    }

    #[test]
    fn the_library_is_drawn() {
        let workspace = Workspace::locate().unwrap();
        let modules = read(&workspace.root().join("src")).unwrap();
        assert!(modules["plan"].imports.contains("kernel") && modules["plan"].uses_wgpu);
        assert!(modules["onnx"].optional && !modules["mask"].optional);
        let svg = draw(&modules).unwrap();
        assert!(modules.keys().all(|name| svg.contains(&format!(">{name}</text>"))));
    }
}
