// Of the splits of one pass: (m, l), o being the sum that belongs to them.

// needs bindings: params, stats
// offers part_stats

fn part_stats(i: u32, row: u32) -> vec2<f32> {
    return stats[i * params.stats_stride + row];
}
