//! A matrix that many vectors are multiplied with, laid for that.

/// Columns that are computed together: enough to keep wide registers busy, few enough to stay in them.
const BLOCK: usize = 32;

/// `rows` by `columns`, in blocks of columns, each row after row; the last block is filled with zeros.
#[derive(Debug, Clone)]
pub(in crate::onnx::ops) struct Matrix {
    rows: usize,
    blocks: Vec<f32>,
}

impl Matrix {
    /// Of what stands in the file, which has it the other way: column after column.
    pub(in crate::onnx::ops) fn of_columns(rows: usize, columns: &[f32]) -> Self {
        let count = columns.len() / rows.max(1);
        let mut blocks = vec![0.0; count.div_ceil(BLOCK) * BLOCK * rows];
        for (column, values) in columns.chunks_exact(rows.max(1)).enumerate() {
            let first = column / BLOCK * BLOCK * rows + column % BLOCK;
            for (row, value) in values.iter().enumerate() {
                blocks[first + row * BLOCK] = *value;
            }
        }
        Self { rows, blocks }
    }

    /// The columns, and those of the filling.
    pub(in crate::onnx::ops) fn padded_columns(&self) -> usize {
        self.blocks.len() / self.rows.max(1)
    }

    /// Adds `vector * self` to `sums`, which is as long as [`Matrix::padded_columns`] says.
    #[inline(always)]
    pub(in crate::onnx::ops) fn multiply<const FUSED: bool>(
        &self,
        vector: &[f32],
        sums: &mut [f32],
    ) {
        let blocks = self.blocks.chunks_exact(BLOCK * self.rows.max(1));
        for (block, sums) in blocks.zip(sums.as_chunks_mut::<BLOCK>().0) {
            // Two sums for each column, of every other row: a sum need not wait for the one before.
            let (mut even, mut odd) = (*sums, [0.0; BLOCK]);
            let (pairs, last) = block.as_chunks::<BLOCK>().0.as_chunks::<2>();
            let (x_pairs, x_last) = vector.as_chunks::<2>();
            for ([x, y], [row, next]) in x_pairs.iter().zip(pairs) {
                for i in 0..BLOCK {
                    even[i] = add_product::<FUSED>(even[i], *x, row[i]);
                }
                for i in 0..BLOCK {
                    odd[i] = add_product::<FUSED>(odd[i], *y, next[i]);
                }
            }
            for (x, row) in x_last.iter().zip(last) {
                for i in 0..BLOCK {
                    even[i] = add_product::<FUSED>(even[i], *x, row[i]);
                }
            }
            for i in 0..BLOCK {
                sums[i] = even[i] + odd[i];
            }
        }
    }
}

/// In one instruction where the machine has it; a call of a function where it has not, which is why that is asked before.
#[inline(always)]
pub(in crate::onnx::ops) fn add_product<const FUSED: bool>(sum: f32, x: f32, y: f32) -> f32 {
    if FUSED {
        x.mul_add(y, sum)
    } else {
        sum + x * y
    }
}
