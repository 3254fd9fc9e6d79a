// The sum of row_term over the rows of a head, of the sequences [sequences.x, sequences.y): the first invocation has it.
//
// Each invocation sums every WORKGROUP_SIZE-th row, and the first adds them up, in order, after the barrier behind which every
// invocation's element of `sums` is written.

// needs backward/: row_term
// needs bindings: row_terms
// needs constants: WORKGROUP_SIZE
// needs sequences/: q_len
// needs sequences/positions: lse_index
// offers sum_of_rows

var<workgroup> sums: array<f32, WORKGROUP_SIZE>;

fn sum_of_rows(h: u32, sequences: vec2<u32>, invocation: u32) -> f32 {
    // Runs of 1024 rows are summed apart: a running sum in f32 of n equal terms may be off by n 2^-26 of itself.
    var sum = 0.0;
    for (var b = sequences.x; b < sequences.y; b += 1u) {
        for (var run = invocation; run < q_len(b); run += 1024u * WORKGROUP_SIZE) {
            var run_sum = 0.0;
            for (var q_idx = run; q_idx < min(run + 1024u * WORKGROUP_SIZE, q_len(b)); q_idx += WORKGROUP_SIZE) {
                run_sum += row_term(row_terms[lse_index(b, h, q_idx)], h);
            }
            sum += run_sum;
        }
    }
    sums[invocation] = sum;
    workgroupBarrier();
    var total = 0.0;
    if (invocation == 0u) {
        for (var i = 0u; i < WORKGROUP_SIZE; i += 1u) {
            total += sums[i];
        }
    }
    return total;
}
