//! The report: one table per kernel.

use std::fmt::Write as _;

use super::code::Products;
use super::family::Family;
use super::listing::Compiled;

/// What is known of a kernel on a family.
pub(crate) type Row<'a> = (&'a Family, &'a Compiled);

const HEADER: &str = "\
| head_dim | type | GPU | VGPRs | SGPRs | spills | scratch | LDS | waves | instructions | latency | inverse throughput | multiply-adds | of arithmetic | of vector | packed | comparisons | limited by |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// Markdown: under each kernel's name its table.
pub(crate) fn markdown(rows: &[Row<'_>]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (_, kernel) in rows {
        if !names.contains(&kernel.name.as_str()) {
            names.push(&kernel.name);
        }
    }
    let mut text = String::new();
    for name in names {
        // Writing to a String can't fail.
        let _ = write!(text, "## {name}\n\n{HEADER}");
        for (family, kernel) in rows.iter().filter(|(_, kernel)| kernel.name == name) {
            let _ = writeln!(text, "| {} |", cells(family, kernel).join(" | "));
        }
        text.push('\n');
    }
    text
}

fn cells(family: &Family, kernel: &Compiled) -> Vec<String> {
    let stats = &kernel.stats;
    let products = kernel.code.products();
    let of_products =
        |cell: fn(&Products) -> String| products.as_ref().map_or_else(|| "–".to_owned(), cell);
    vec![
        kernel.head_dim.to_string(),
        kernel.dtype.clone(),
        family.name.to_owned(),
        stats.vgprs.to_string(),
        stats.sgprs.to_string(),
        stats.spilled.to_string(),
        stats.scratch.to_string(),
        stats.lds.to_string(),
        stats.occupancy.to_string(),
        stats.instructions.to_string(),
        stats.latency.to_string(),
        stats.inverse_throughput.to_string(),
        of_products(|products| products.mix.multiply_adds.to_string()),
        of_products(|products| percent(products.mix.share_of_arithmetic())),
        of_products(|products| percent(products.mix.share_of_vector())),
        products.as_ref().map_or_else(|| "–".to_owned(), |products| packed(family, products)),
        of_products(|products| {
            format!("{} / {}", products.fewest_comparisons, products.most_comparisons)
        }),
        limit(family, kernel, products.as_ref()),
    ]
}

fn packed(family: &Family, products: &Products) -> String {
    let mix = &products.mix;
    match (mix.matrix, mix.packed, mix.dual) {
        (0, 0, 0) => "–".to_owned(),
        (0, 0, dual) => format!("{dual} dual"),
        (0, packed, _) => format!("{packed} packed"),
        (matrix, ..) => {
            let clocks = family.matrix_clocks(mix) / family.arithmetic_clocks(mix);
            format!("{matrix} WMMA, {} of arithmetic's clocks", percent(clocks))
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// What keeps the products from being faster, by the clocks that their instructions take.
fn limit(family: &Family, kernel: &Compiled, products: Option<&Products>) -> String {
    if kernel.stats.spilled > 0 || kernel.stats.scratch > 0 {
        return "registers, which spill".to_owned();
    }
    let Some(products) = products else { return "memory: it multiplies nothing".to_owned() };
    let arithmetic = family.arithmetic_clocks(&products.mix);
    let lds = family.lds_clocks(&products.mix);
    if arithmetic >= lds {
        format!("arithmetic; workgroup memory {} of it", percent(lds / arithmetic))
    } else {
        format!("workgroup memory; arithmetic {} of it", percent(arithmetic / lds))
    }
}
