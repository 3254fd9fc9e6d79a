//! For each kind of finding a kernel that has it, and its twin that hasn't.

use wgsl_sanitizer::{Binding, Buffer, FindingKind, Options, Order, Report, Shader};

/// Runs `main` of a text on one buffer of 256 u32 at binding 0, in two workgroups, subgroups of 4.
fn run_with(text: &str, options: &Options, prepare: impl Fn(&Buffer)) -> Report {
    let shader = Shader::from_wgsl(text).unwrap_or_else(|error| panic!("{error}"));
    let kernel = shader.kernel("main", &[], 4).unwrap();
    let buffer = Buffer::new(1024);
    prepare(&buffer);
    kernel.dispatch([2, 1, 1], &[Binding::whole(0, 0, &buffer)], options).unwrap()
}

fn run(text: &str) -> Report {
    run_with(text, &Options::default(), |_| ())
}

/// The only finding: its kind, its line, and its words.
#[track_caller]
fn only(report: &Report, kind: FindingKind, line: u32, words: &[&str]) {
    let [finding] = &report.findings[..] else { panic!("{report}") };
    assert_eq!(finding.kind, kind, "{report}");
    assert_eq!(finding.at.line, line, "{report}");
    let text = finding.to_string();
    for word in words {
        assert!(text.contains(word), "no `{word}` in:\n{text}");
    }
}

/// One of the findings, where subgroups see a race from both sides.
#[track_caller]
fn among(report: &Report, kind: FindingKind, line: u32, words: &[&str]) {
    let is_it = |found: &&wgsl_sanitizer::Finding| {
        let text = found.to_string();
        found.kind == kind && found.at.line == line && words.iter().all(|word| text.contains(word))
    };
    assert!(report.findings.iter().any(|found| is_it(&found)), "{report}");
}

#[track_caller]
fn nothing(report: &Report) {
    assert!(report.findings.is_empty(), "{report}");
    assert!(report.operations > 0);
}

const HEAD: &str = "
// A kernel's first line
// is line 15.
enable f16;
enable wgpu_cooperative_matrix;
@group(0) @binding(0) var<storage, read_write> data: array<u32>;
var<workgroup> tile: array<u32, 16>;
var<workgroup> sum: atomic<u32>;
var<workgroup> halves: array<f16, 256>;
";

/// A kernel of 8 invocations.
fn kernel(body: &str) -> String {
    format!(
        "{HEAD}
@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_id) subgroup: u32) {{
    let at = group.x * 8u + i;
    {body}
}}"
    )
}

const FIRST: u32 = 15;

#[test]
fn a_missing_barrier_is_a_race_with_both_lines_and_invocations() {
    let report = run(&kernel("tile[i] = i;\n    data[at] = tile[(i + 1u) % 8u];"));
    among(
        &report,
        FindingKind::Race,
        FIRST + 1,
        &[
            "`tile[",
            "reads",
            "line 16",
            "line 15",
            "invocation",
            "written before",
            "`data[at] = tile[(i + 1u) % 8u];`",
        ],
    );
    nothing(&run(&kernel("tile[i] = i;\n workgroupBarrier();\n data[at] = tile[(i + 1u) % 8u];")));
    // What an invocation wrote itself needs no barrier.
    nothing(&run(&kernel("tile[i] = i;\n data[at] = tile[i];")));
}

#[test]
fn a_write_after_reads_of_others_is_a_race() {
    let text = |between: &str| {
        kernel(&format!(
            "tile[i] = i;\n workgroupBarrier();\n data[at] = tile[(i + 1u) % 8u];\n {between}\n tile[i] = 2u;"
        ))
    };
    among(&run(&text("")), FindingKind::Race, FIRST + 4, &["writes 2", "read before", "line 17"]);
    nothing(&run(&text("workgroupBarrier();")));
    // The wrong one orders storage alone.
    among(&run(&text("storageBarrier();")), FindingKind::Race, FIRST + 4, &[]);
}

#[test]
fn two_writes_are_a_race_even_of_the_same_value() {
    only(&run(&kernel("tile[0] = 7u;")), FindingKind::Race, FIRST, &["the same value", "tile[0]"]);
    nothing(&run(&kernel("if (i == 0u) { tile[0] = 7u; }")));
}

#[test]
fn order_within_a_subgroup_comes_from_its_barrier_alone() {
    let text = |between: &str| {
        kernel(&format!("tile[i] = i;\n {between}\n data[at] = tile[subgroup * 4u + (lane ^ 1u)];"))
    };
    only(&run(&text("")), FindingKind::Race, FIRST + 2, &[]);
    nothing(&run(&text("subgroupBarrier();")));
    // The other subgroup isn't ordered by it.
    let across = kernel("tile[i] = i;\n subgroupBarrier();\n data[at] = tile[i ^ 4u];");
    among(&run(&across), FindingKind::Race, FIRST + 2, &["tile["]);
}

#[test]
fn atomics_do_not_race_with_each_other() {
    let start = "if (i == 0u) { atomicStore(&sum, 0u); }\n workgroupBarrier();\n";
    nothing(&run(&kernel(&format!("{start} atomicAdd(&sum, i);"))));
    // But who comes first is a matter of order, which is noted.
    let report = run(&kernel(
        "if (i == 5u) { atomicStore(&sum, 0u); }\n if (i == 6u) { atomicOr(&sum, 1u); }",
    ));
    assert_eq!(report.faults().count(), 0, "{report}");
    only(&report, FindingKind::AtomicOrder, FIRST + 1, &["`sum`", "line 15", "invocation 5"]);
    let text =
        format!("{start} atomicAdd(&sum, i);\n workgroupBarrier();\n data[at] = atomicLoad(&sum);");
    nothing(&run(&kernel(&text)));
}

#[test]
fn workgroups_race_in_storage_whatever_barriers_there_are() {
    let report = run(&kernel("data[i] = at;\n storageBarrier();"));
    only(
        &report,
        FindingKind::Race,
        FIRST,
        &["workgroup (0, 0, 0)", "workgroup (1, 0, 0)", "`data["],
    );
    nothing(&run(&kernel("data[at] = i;")));
    let within = |barrier: &str| {
        kernel(&format!(
            "data[at] = i;\n {barrier}\n let x = data[group.x * 8u + (i ^ 7u)];\n {barrier}\n data[at] = x;"
        ))
    };
    nothing(&run(&within("storageBarrier();")));
    assert_eq!(run(&within("workgroupBarrier();")).faults().count(), 2);
    assert!(
        run(&within("workgroupBarrier();")).faults().all(|found| found.kind == FindingKind::Race)
    );
}

#[test]
fn memory_that_nothing_wrote_is_found_where_it_is_read() {
    let report = run(&kernel("data[at] = tile[8u + i];"));
    only(&report, FindingKind::Uninitialized, FIRST, &["`tile[8]`"]);
    let options = Options { zero_workgroup_memory: true, ..Options::default() };
    nothing(&run_with(&kernel("data[at] = tile[8u + i];"), &options, |_| ()));

    only(
        &run_with(&kernel("data[at] = data[100];"), &Options::default(), |buffer| {
            buffer.poison(400..404)
        }),
        FindingKind::Uninitialized,
        FIRST,
        &["`data[100]`", "byte 400"],
    );
    nothing(&run_with(&kernel("data[at] = data[100];"), &Options::default(), |buffer| {
        buffer.poison(404..408)
    }));

    let options = Options { uninitialized_variables: true, ..Options::default() };
    let text = kernel("var x: u32;\n if (i != 3u) { x = 1u; }\n data[at] = x;");
    only(
        &run_with(&text, &options, |_| ()),
        FindingKind::Uninitialized,
        FIRST + 2,
        &["`x`", "lane 3"],
    );
    nothing(&run(&text));
    nothing(&run_with(&kernel("var x: u32;\n x = 1u;\n data[at] = x;"), &options, |_| ()));
    // A copy of an array may have holes, which are found where they are used.
    let text = "var x: array<u32, 4>;\n x[i % 4u] = 1u;\n let y = x;\n data[at] = y[0];";
    only(
        &run_with(&kernel(text), &options, |_| ()),
        FindingKind::Uninitialized,
        FIRST + 3,
        &["lane 1"],
    );
    let text = "var x: array<u32, 4>;\n x[0] = 1u;\n let y = x;\n data[at] = y[0];";
    nothing(&run_with(&kernel(text), &options, |_| ()));
}

#[test]
fn private_variables_hold_nothing_either() {
    let options = Options { uninitialized_variables: true, ..Options::default() };
    let body = kernel("own.x = 1u;\n data[at] = own.x + own.y;");
    let text = format!("{body}\nvar<private> own: vec2<u32>;");
    only(&run_with(&text, &options, |_| ()), FindingKind::Uninitialized, FIRST + 1, &["`own.y`"]);
    nothing(&run(&text));
}

#[test]
fn an_index_beyond_its_array_is_found_where_it_is_used() {
    only(
        &run(&kernel("tile[i * 3u] = 1u;")),
        FindingKind::OutOfBounds,
        FIRST,
        &["`tile`", "index 18 of 16"],
    );
    nothing(&run(&kernel("tile[i * 2u] = 1u;")));
    only(
        &run(&kernel("data[at + 241u] = 1u;")),
        FindingKind::OutOfBounds,
        FIRST,
        &["`data`", "index 256 of 256"],
    );
    nothing(&run(&kernel("data[at + 240u] = 1u;")));
    let text = "var x = array<u32, 4>(1u, 2u, 3u, 4u);\n data[at] = x[i32(i) - 1];";
    only(&run(&kernel(text)), FindingKind::OutOfBounds, FIRST + 1, &["`x`", "index -1 of 4"]);
    only(
        &run(&kernel("let x = vec4<u32>(i);\n data[at] = x[i];")),
        FindingKind::OutOfBounds,
        FIRST + 1,
        &["index 4 of 4"],
    );
    nothing(&run(&kernel("let x = vec4<u32>(i);\n data[at] = x[i % 4u];")));
    // What isn't taken isn't found.
    nothing(&run(&kernel("if (i < 4u) { let p = &tile[i * 4u];\n *p = 1u; }")));
    let function = "fn put(p: ptr<function, u32>) { *p = 1u; }";
    let report = run(&format!("{}\n{function}", kernel("var x: array<u32, 4>; put(&x[i]);")));
    only(&report, FindingKind::OutOfBounds, FIRST + 2, &["`x`", "index 4 of 4"]);
}

#[test]
fn calls_that_lead_to_a_finding_are_told_with_their_arguments() {
    let functions = "
        fn outer(scale: f32, at: u32) { inner(at + 1u, scale < 0.0, vec2<u32>(at)); }
        fn inner(at: u32, is_last: bool, pair: vec2<u32>) { tile[at] = pair.x; }";
    let text = kernel("outer(0.5, i * 3u);");
    let report = run(&(text + functions));
    let [finding] = &report.findings[..] else { panic!("{report}") };
    assert_eq!(finding.kind, FindingKind::OutOfBounds);
    assert_eq!((finding.invocation.local, finding.calls.len()), (5, 2), "{report}");
    let calls: Vec<_> = finding.calls.iter().map(ToString::to_string).collect();
    assert!(
        calls[0].starts_with("in inner(at: 16, is_last: false), called at line 17:"),
        "{calls:?}"
    );
    assert!(calls[1].starts_with("in outer(scale: 0.5, at: 15), called at line 15:"), "{calls:?}");
    assert!(finding.to_string().contains("  in inner(at: 16, is_last: false), called at"));
    assert!(run(&kernel("tile[i * 3u] = 1u;")).findings[0].calls.is_empty());
}

#[test]
fn a_barrier_that_not_all_reach_is_found() {
    only(
        &run(&kernel("if (i < 4u) { workgroupBarrier(); }")),
        FindingKind::DivergentBarrier,
        FIRST,
        &["has ended"],
    );
    only(
        &run(&kernel("if (i < 2u) { workgroupBarrier(); }")),
        FindingKind::DivergentBarrier,
        FIRST,
        &["2 of the subgroup's 4"],
    );
    only(
        &run(&kernel("if (i == 7u) { return; }\n workgroupBarrier();")),
        FindingKind::DivergentBarrier,
        FIRST + 1,
        &["first lane 3"],
    );
    only(
        &run(&kernel("if (i < 4u) { workgroupBarrier(); } else {\n workgroupBarrier(); }")),
        FindingKind::DivergentBarrier,
        FIRST,
        &["line 16"],
    );
    nothing(&run(&kernel("if (group.x == 0u) { workgroupBarrier(); }")));
    nothing(&run(&kernel("for (var j = 0u; j < group.x + 2u; j += 1u) { workgroupBarrier(); }")));
}

#[test]
fn a_matrix_operation_that_not_all_lanes_reach_is_found() {
    let text = |condition: &str| {
        kernel(&format!(
            "for (var j = i; j < 256u; j += 8u) {{ halves[j] = 1h; }}\n workgroupBarrier();\n if ({condition}) {{
            let m = coopLoad<coop_mat8x8<f16, A>>(&halves[0], 8u); }}"
        ))
    };
    only(&run(&text("lane == 0u")), FindingKind::DivergentMatrix, FIRST + 3, &["1 of 4"]);
    nothing(&run(&text("subgroup == 0u")));
}

#[test]
fn a_matrix_beyond_its_array_is_found() {
    let text = |at: u32| {
        kernel(&format!(
            "for (var j = i; j < 256u; j += 8u) {{ halves[j] = 1h; }}\n workgroupBarrier();
            let m = coopLoadT<coop_mat8x8<f16, A>>(&halves[{at}], 16u);"
        ))
    };
    // The last element is 7 * 16 + 7 behind the first.
    nothing(&run(&text(136)));
    only(&run(&text(137)), FindingKind::OutOfBounds, FIRST + 2, &["element (7, 7)", "256"]);
}

#[test]
fn a_shuffle_from_a_lane_that_isnt_there_is_found() {
    only(
        &run(&kernel("data[at] = subgroupShuffleDown(i, 1u);")),
        FindingKind::InactiveLane,
        FIRST,
        &["lane 4 of 4"],
    );
    nothing(&run(&kernel("data[at] = subgroupShuffleXor(i, 1u);")));
    only(
        &run(&kernel("if (lane < 2u) { data[at] = subgroupShuffle(i, 3u); }")),
        FindingKind::InactiveLane,
        FIRST,
        &["lane 3 isn't active"],
    );
}

#[test]
fn an_operand_that_must_be_uniform_is_checked() {
    let text = "tile[i] = 1u;\n data[at] = workgroupUniformLoad(&tile[i % 2u]);";
    only(&run(&kernel(text)), FindingKind::NotUniform, FIRST + 1, &["`tile[1]`", "`tile[0]`"]);
    nothing(&run(&kernel("tile[i] = 1u;\n data[at] = workgroupUniformLoad(&tile[1]);")));
}

#[test]
fn a_write_where_nothing_may_be_written_is_found() {
    let protect = |buffer: &Buffer| buffer.protect(64..1024);
    only(
        &run_with(&kernel("data[at + 1u] = 5u;"), &Options::default(), protect),
        FindingKind::ForbiddenWrite,
        FIRST,
        &["`data[16]`", "writes 5"],
    );
    nothing(&run_with(&kernel("data[at] = 5u;"), &Options::default(), protect));
}

#[test]
fn divisions_and_shifts_without_a_result_are_found() {
    only(&run(&kernel("data[at] = 8u / i;")), FindingKind::Division, FIRST, &["8 by 0 in u32"]);
    only(&run(&kernel("data[at] = 8u % i;")), FindingKind::Division, FIRST, &[]);
    nothing(&run(&kernel("data[at] = 8u / (i + 1u);")));
    let text = "let x = i32(i) - 1;\n data[at] = u32((-2147483647 - min(1, i32(i) + 1)) / x);";
    assert!(run(&kernel(text)).to_string().contains("-2147483648 by -1 in i32"));
    only(
        &run(&kernel("data[at] = 1u << (i * 5u);")),
        FindingKind::Shift,
        FIRST,
        &["by 35 of a value of 32 bits"],
    );
    nothing(&run(&kernel("data[at] = 1u << (i * 4u);")));
}

#[test]
fn nan_from_numbers_is_a_note() {
    let report = run(&kernel("data[at] = u32(sqrt(f32(i) - 1.0));"));
    only(&report, FindingKind::NotANumber, FIRST, &["from -1.0"]);
    assert_eq!(report.faults().count(), 0);
    nothing(&run(&kernel("data[at] = u32(sqrt(f32(i)));")));
    // Nothing new is made of what isn't a number already.
    nothing(&run(&kernel("let x = bitcast<f32>(0x7f800000u | i);\n data[at] = u32(x + 1.0);")));
}

#[test]
fn lanes_that_are_elsewhere_find_nothing() {
    nothing(&run(&kernel("if (i > 0u) { data[at] = 8u / i; }")));
    nothing(&run(&kernel("if (i < 4u) { tile[i * 4u] = 1u; }")));
    nothing(&run(&kernel("if (i > 0u) { data[at] = u32(sqrt(f32(i) - 1.0)); }")));
}

#[test]
fn every_order_and_size_finds_a_race() {
    let text = kernel("tile[i] = i;\n data[at] = tile[7u - i];");
    let shader = Shader::from_wgsl(&text).unwrap();
    for size in [1, 2, 3, 4, 8, 16, 32, 64, 128] {
        for order in [Order::Forward, Order::Backward, Order::Random(1), Order::Random(2)] {
            let kernel = shader.kernel("main", &[], size).unwrap();
            let buffer = Buffer::new(1024);
            let options = Options { order, ..Options::default() };
            let report =
                kernel.dispatch([2, 1, 1], &[Binding::whole(0, 0, &buffer)], &options).unwrap();
            assert!(
                report.findings.iter().any(|found| found.kind == FindingKind::Race),
                "{size} {order:?}"
            );
        }
    }
}
