//! A report as a page that needs nothing but a browser.

use std::fmt::Write as _;

use serde_json::Value;
use wgpu_attention_tools::picture::{Bar, Bars};

/// A part in a few words.
pub(super) fn in_short(part: &Value) -> String {
    if let Some(error) = part["failed"].as_str() {
        return format!("failed: {error}");
    }
    let Some(records) = part.as_array() else {
        return part["device"].as_str().unwrap_or("done").to_owned();
    };
    let count = |result: &str| records.iter().filter(|record| record["result"] == result).count();
    match records.first().is_some_and(|record| record["result"].is_string()) {
        true => ["right", "wrong", "failed", "refused", "left out"]
            .map(|result| (result, count(result)))
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(result, count)| format!("{count} {result}"))
            .collect::<Vec<_>>()
            .join(", "),
        false => format!("{} measurements", records.len()),
    }
}

pub(super) fn html(report: &Value) -> anyhow::Result<String> {
    let device = &report["device"];
    let word = |key: &str| escape(device[key].as_str().unwrap_or("unknown"));
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>wgpu-attention on {name}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f28}}\
         table{{border-collapse:collapse}}td,th{{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #dfe3ea}}\
         .wrong{{color:#b00020;font-weight:600}}svg{{max-width:100%;height:auto}}</style>\
         <h1>wgpu-attention on {name}</h1><p>{driver} {info}, {backend}, {os}; wgpu-attention {version}</p>",
        name = word("device"),
        driver = word("driver"),
        info = word("driver_info"),
        backend = word("backend"),
        os = word("os"),
        version = word("version"),
    );
    for part in ["checks", "matrix checks"] {
        if !report[part].is_null() {
            checks(&mut page, part, &report[part]);
        }
    }
    for part in ["forward and decode", "backward"] {
        let Some(records) = report[part].as_array() else { continue };
        let bars = records.iter().map(|record| {
            let share = record["share_of_peak"].as_f64().unwrap_or(0.0);
            let name = match record["name"].as_str() {
                Some(name) => name.to_owned(),
                None => format!(
                    "{} {} {}",
                    record["shape"],
                    text(record, "mask"),
                    text(record, "dtype")
                ),
            };
            let ms = record["ms_median"].as_f64().unwrap_or(0.0);
            let gflops = record["gflops"].as_f64().unwrap_or(0.0);
            Bar {
                label: format!("{name}  {}", text(record, "kernel")),
                share,
                value: format!("{:.0} %   {ms:.2} ms   {gflops:.0} GFLOP/s", 100.0 * share),
            }
        });
        let svg = Bars::new(format!("{part}: share of the device's peak")).bars(bars).to_svg()?;
        // Writing to a String can't fail.
        let _ = write!(page, "<h2>{part}</h2>{svg}");
    }
    if let Some(choices) = report["tune"].as_array() {
        page += "<h2>The fastest kernels</h2><table><tr><th>rows x keys<th>head_dim<th>type<th>kernel<th>tiles<th>ms";
        for choice in choices {
            let best = &choice["best"];
            let _ = write!(
                page,
                "<tr><td>{} x {}<td>{}<td>{}<td>{}<td>{}<td>{:.3}",
                choice["rows"],
                choice["keys"],
                choice["head_dim"],
                escape(choice["dtypes"][0].as_str().unwrap_or_default()),
                escape(best["kernel"].as_str().unwrap_or_default()),
                escape(best["tiles"].as_str().unwrap_or_default()),
                best["ns"].as_f64().unwrap_or(0.0) * 1e-6
            );
        }
        page += "</table>";
    }
    for (name, part) in report.as_object().into_iter().flatten() {
        if let Some(error) = part["failed"].as_str() {
            let _ = write!(page, "<p class=\"wrong\">{}: {}</p>", escape(name), escape(error));
        }
    }
    Ok(page)
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or_default()
}

/// What is right as a number, what isn't in full.
fn checks(page: &mut String, name: &str, records: &Value) {
    let _ = write!(page, "<h2>{name}: {}</h2><table>", escape(&in_short(records)));
    for record in records.as_array().into_iter().flatten() {
        let result = text(record, "result");
        if result == "right" {
            continue;
        }
        let class =
            if result == "refused" || result == "left out" { "" } else { " class=\"wrong\"" };
        let why = match record["error"].as_f64() {
            Some(error) => format!(
                "error {error:.2e}, allowed {}, the same bits each time: {}",
                record["allowed"], record["same_bits"]
            ),
            None => text(record, "why").to_owned(),
        };
        let _ = write!(
            page,
            "<tr><td{class}>{result}<td>{}<td>{}",
            escape(text(record, "check")),
            escape(&why)
        );
    }
    *page += "</table>";
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
