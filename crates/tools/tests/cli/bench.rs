//! `bench` and `tune`.

use wgpu_attention::kernel::Profile;
use wgpu_attention::mask::Evaluator;
use wgpu_attention::{AuxData, Mask, Shape};

use crate::call::{failure, records, stdout, words};

#[test]
fn a_benchmark_prints_a_record_per_problem_and_kernel() {
    let text = stdout(words(
        "bench --shape 2,4,2,70,133,8 --shape 2,4,4,5,3,8,12 --mask key_lengths&causal \
         --key-lengths 3,0 --dtype f32 --dtype f16 --kernel tiled --quick --json",
    ));
    let records = records(&text);
    assert_eq!(records.len(), 4, "{text}");
    for record in &records {
        let number = |key: &str| record[key].as_f64().unwrap_or_else(|| panic!("{key}: {record}"));
        assert_eq!(record["kernel"], "tiled");
        assert!(record["device"].is_string());
        assert!(0.0 < number("ms_min") && number("ms_min") <= number("ms_median"), "{record}");
        assert!(number("cpu_ms") >= 0.0 && number("share_of_peak") >= 0.0, "{record}");
        assert!(number("peak_gflops") > 0.0 && number("copy_gbytes_per_s") > 0.0, "{record}");

        let sizes: [usize; 7] = serde_json::from_value(record["shape"].clone()).unwrap();
        let [batch, heads, _, seq_q, seq_kv, dim, dim_v] = sizes;
        let shape = Shape::new(batch, heads, seq_q, dim).seq_len_kv(seq_kv).head_dim_v(dim_v);
        let mask: Mask = record["mask"].as_str().unwrap().parse().unwrap();
        let data = AuxData::new().key_lengths([3, 0]);
        let evaluator = Evaluator::new(&mask, &data, &shape).unwrap();
        let cells = (0..batch * heads * seq_q * seq_kv).filter(|cell| {
            let (row, kv_idx) = (cell / seq_kv, cell % seq_kv);
            let (plane, q_idx) = (row / seq_q, row % seq_q);
            evaluator.keep(plane / heads, plane % heads, q_idx, kv_idx)
        });
        let kept = cells.count() as f64;
        assert_eq!(number("kept_cells"), kept);
        let gflops = 2.0 * kept * (dim + dim_v) as f64 / number("ms_median") * 1e-6;
        assert!((number("gflops") - gflops).abs() <= 1e-2 * gflops, "{gflops}: {record}");
    }
    let dtypes: Vec<_> = records.iter().map(|record| record["dtype"].as_str().unwrap()).collect();
    assert_eq!(dtypes, ["f32", "f16"].repeat(2));
}

#[test]
fn a_benchmark_is_drawn_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let [plot, report] = ["plot.png", "report.jsonl"].map(|name| folder.path().join(name));
    let mut arguments = words("bench --shape 1,1,1,16,16,16 --kernel all --quick");
    let paths = [&plot, &report].map(|path| path.display().to_string());
    arguments.extend(["--plot", &paths[0], "--report", &paths[1]]);
    let text = stdout(arguments);
    assert!(text.contains("peaks:  ") && text.contains("1, 1/1, 16x16 D=16 all f32"), "{text}");
    assert!(std::fs::read(&plot).unwrap().starts_with(b"\x89PNG"));
    let records = records(&std::fs::read_to_string(&report).unwrap());
    assert_eq!(records[0]["report"], 1);
    assert!(records[0]["driver"].is_string() && records[0]["subgroup_sizes"].is_array());
    let kernels: Vec<_> = records[1..].iter().map(|record| record["kernel"].as_str()).collect();
    assert!(kernels.contains(&Some("tiled")), "{kernels:?}");
}

#[test]
fn a_profile_is_written_and_gone_by() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.json");
    let mut arguments = words("tune --shape 1,2,2,40,40,8 --mask causal --quick --out");
    let shown = path.display().to_string();
    arguments.push(&shown);
    let text = stdout(&arguments);
    assert!(
        text.contains("(without the profile: `") && text.ends_with(&format!("{shown}\n")),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2, "{text}");
    let profile: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let choice = &profile["choices"][0];
    let measured = choice["measured"].as_array().unwrap();
    assert!(measured.len() > 1 && measured[0] == choice["best"], "{profile}");
    Profile::load(&path).unwrap();

    let record = &records(&stdout(arguments.iter().copied().chain(["--json"])))[0];
    assert_eq!(record["shape"], serde_json::json!([1, 2, 2, 40, 40, 8, 8]));
    assert_eq!([&record["mask"], &record["profile"]], ["causal", &shown]);
    assert!(record["kernel"].is_string() && record["kernel_before"].is_string(), "{record}");
    assert!(record["choice"].as_str().unwrap().contains("as the profile measured"), "{record}");
    let long = stdout(arguments.iter().copied().chain(["--verbose"]));
    assert!(long.contains("as the profile measured"), "{long}");
    assert_eq!(stdout(arguments.iter().copied().chain(["--quiet"])), "");
}

/// Decoding is measured against loads of its keys and values, and of those alone that the mask keeps.
#[test]
fn no_share_is_above_the_peak() {
    let text = stdout(words(
        "bench --shape 2,8,8,1,4096,64 --shape 2,8,2,1,16384,64 --shape 2,1,1,1,20,4 --mask all --mask window(15,0) \
         --mask key_lengths --key-lengths 20,7 --kernel all --quick --json",
    ));
    let records = records(&text);
    let mut loaded = 0;
    for record in &records {
        let share = record["share_of_peak"].as_f64();
        assert!(share.is_some_and(|share| 0.0 < share && share <= 1.0), "{record}");
        loaded += usize::from(record["load_gbytes_per_s"].as_f64() > Some(0.0));
    }
    assert!(loaded * 2 > records.len(), "{text}");
}

/// The standard set has steps of decoding among its problems.
#[test]
fn the_standard_set_decodes() {
    let records = records(&stdout(words("bench --quick --json")));
    let queries = |record: &serde_json::Value| record["shape"][3].as_u64().unwrap();
    assert_eq!(records.iter().filter(|record| queries(record) == 1).count(), 2);
    assert!(records.len() > 8);
    for record in &records {
        assert!(record["share_of_peak"].as_f64().is_some_and(|share| share <= 1.0), "{record}");
    }
}

#[test]
fn a_benchmark_that_can_not_be_run_says_why() {
    let missing = failure(words("bench --shape 1,1,1,4,4,4 --mask documents"), 1);
    assert!(missing.contains("document_ids_q") && missing.contains("--data"), "{missing}");
    let heads = failure(words("bench --shape 1,3,2,4,4,4"), 1);
    assert!(heads.contains("num_heads: expected a multiple of num_kv_heads = 2, found 3"));
    let kernel = failure(words("bench --shape 1,1,1,4,4,4 --kernel fastest"), 2);
    assert!(kernel.contains("possible values: broadcast, tiled"), "{kernel}");
    failure(words("bench --shape 1,1,1"), 2);
    failure(words("bench --mask causal"), 2);
}

#[test]
fn a_report_is_written_part_by_part_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpu");
    let call = || format!("report {} --minutes 0", path.display());
    let text = stdout(words(&call()));
    assert!(text.contains("checks: left out, 0 minutes are over"), "{text}");
    let json = std::fs::read_to_string(path.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(report["device"]["peak_gflops"].as_f64().unwrap() > 0.0, "{json}");
    assert!(report["checks"].is_null(), "{json}");
    let page = std::fs::read_to_string(path.join("report.html")).unwrap();
    assert!(page.contains("<h1>wgpu-attention on "), "{page}");

    let text = stdout(words(&call()));
    assert!(text.contains("device: done before"), "{text}");
    let other = json.replace("\"device\": \"", "\"device\": \"another ");
    std::fs::write(path.join("report.json"), other).unwrap();
    let error = failure(words(&call()), 1);
    assert!(error.contains("is a report of another"), "{error}");
}
