// A dispatch that binds a window of the rows of its workgroups' own side, and a block's rows more behind it: it is for the blocks
// that begin in the window, rows [params.first_own_row, params.end_own_row) as they lie in memory. So each block belongs to one
// window, and all of its rows are bound there.

// needs bindings: params
// offers is_of_other_window

fn is_of_other_window(first: u32) -> bool {
    return first < params.first_own_row || first >= params.end_own_row;
}
