//! The lists of `block_sparse` in f64.

use crate::error::Result;
use crate::mask::{BlockIndexOptions, BlockIndices, BlockPooling, Evaluator};
use crate::problem::{Inputs, Problem, Resolved};

/// The lists that [`crate::plan::BlockIndexPlan`] picks, in f64. Of the problem and its inputs, the mask, the scores and v play
/// no part.
///
/// # Errors
/// As [`super::attention`]; and for options out of their ranges.
pub fn block_indices(
    problem: &Problem,
    inputs: &Inputs<'_>,
    options: &BlockIndexOptions,
) -> Result<BlockIndices> {
    let problem = &Resolved::new(problem.rows_alone())?;
    let shape = problem.shape();
    inputs.check(problem)?;
    options.check(shape)?;
    let evaluator = Evaluator::new(&problem.mask, inputs.aux, shape)?;
    let places = evaluator.places();
    let [q, k] = [inputs.q, inputs.k].map(|operand| operand.to_f32());
    let [q_strides, k_strides] =
        [problem.strides.q, problem.strides.k].map(crate::tensor::shape::Strides::to_array);
    let element = |values: &[f32], strides: [usize; 4], index: [usize; 4]| {
        f64::from(values[strides.iter().zip(index).map(|(stride, i)| stride * i).sum::<usize>()])
    };

    let dims = options.dims(shape);
    let [batch, heads, query_blocks, count] = dims;
    let summed_heads = shape.num_heads.checked_div(heads).unwrap_or(0);
    let sign = 1f64.copysign(f64::from(problem.scale));
    let mut blocks = Vec::new();
    for b in 0..batch {
        let (q_len, kv_len) = (places.q_len(b), places.kv_len(b));
        let rows =
            |block: usize, len: usize| block * options.block..len.min((block + 1) * options.block);
        for head in 0..heads {
            let h_kv = head * shape.num_kv_heads / heads;
            for query_block in 0..query_blocks {
                let queries = rows(query_block, q_len);
                // the pooled query: the mean of the block's queries, summed over the heads that share the list
                let query: Vec<f64> = (0..shape.head_dim)
                    .map(|d| {
                        let of_heads = head * summed_heads..(head + 1) * summed_heads;
                        let sum = of_heads.flat_map(|h| queries.clone().map(move |row| (h, row)));
                        let sum = sum.map(|(h, row)| {
                            let [batch, row] = places.q_place(b, row);
                            element(&q, q_strides, [batch, h, row, d])
                        });
                        sum.sum::<f64>() / queries.len() as f64
                    })
                    .collect();
                // the blocks that may be listed, each with what it is ranked by: listed always, product
                let position = |row: usize| row as i64 + places.diagonal(b);
                let block_at = |position: i64| position.max(0) as usize / options.block;
                let mut ranked: Vec<(usize, u8, f64)> = (0..kv_len.div_ceil(options.block))
                    .filter(|_| !queries.is_empty())
                    .map(|block| {
                        let keys = rows(block, kv_len);
                        let pooled = |d: usize| {
                            let values = keys.clone().map(|row| {
                                let [batch, row] = places.kv_place(b, row);
                                element(&k, k_strides, [batch, h_kv, row, d])
                            });
                            match options.pooling {
                                BlockPooling::Mean => values.sum::<f64>() / keys.len() as f64,
                                // a NaN is no maximum
                                BlockPooling::Max => values.fold(f64::NEG_INFINITY, f64::max),
                            }
                        };
                        let product =
                            (0..shape.head_dim).map(|d| query[d] * pooled(d)).sum::<f64>();
                        let last = position(queries.end - 1);
                        let is_own = last >= 0
                            && (block_at(position(queries.start))..=block_at(last))
                                .contains(&block);
                        let always = match (options.keep_own && is_own, block) {
                            (true, _) => 2,
                            (false, 0) if options.keep_first => 1,
                            _ => 0,
                        };
                        (block, always, product * sign)
                    })
                    .filter(|&(block, ..)| {
                        let first = (block * options.block) as i64;
                        !options.causal || first <= position(queries.end - 1)
                    })
                    .collect();
                // the largest first, of equal ones the lower block, what isn't a number last
                ranked.sort_by(|a, b| {
                    let by_product = match (a.2.is_nan(), b.2.is_nan()) {
                        (false, false) => {
                            b.2.partial_cmp(&a.2).unwrap_or(std::cmp::Ordering::Equal)
                        }
                        (a, b) => a.cmp(&b),
                    };
                    let by_product = if a.1 > 0 { std::cmp::Ordering::Equal } else { by_product };
                    b.1.cmp(&a.1).then(by_product).then(a.0.cmp(&b.0))
                });
                let mut list: Vec<i32> =
                    ranked.iter().take(count).map(|&(block, ..)| block as i32).collect();
                list.sort_unstable();
                list.resize(count, -1);
                blocks.extend(list);
            }
        }
    }
    Ok(BlockIndices { dims, blocks })
}
