// The boundary scan on a GPU, behind a C interface: no PyTorch header, so one library serves every version of it.
#include <cuda_runtime.h>

#include "boundary_scan.cuh"

namespace {

constexpr int WARP = 32, WARPS = hnet::THREADS / WARP;

struct GpuBlock {
    int* warp_totals;  // shared, WARPS

    __device__ int thread() const { return threadIdx.x; }
    __device__ void sync() { __syncthreads(); }
    // A volatile access is relaxed at system scope: it is not torn, cached in L1 or left out.
    __device__ hnet::Word read(const hnet::Word* p) { return *static_cast<const volatile hnet::Word*>(p); }
    __device__ void write(hnet::Word* p, hnet::Word value) { *static_cast<volatile hnet::Word*>(p) = value; }
    // Orders what the thread did before with what a thread that counts later does after.
    __device__ hnet::Word add(hnet::Word* p) {
        __threadfence();
        const hnet::Word before = atomicAdd(p, 1ull);
        __threadfence();
        return before;
    }
    // Sum over the threads before this one; `total` over all.
    __device__ int scan(int value, int* total) {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        int sum = value;
        for (int step = 1; step < WARP; step *= 2) {
            const int other = __shfl_up_sync(~0u, sum, step);
            if (lane >= step) sum += other;
        }
        if (lane == WARP - 1) warp_totals[warp] = sum;
        __syncthreads();
        int before = 0;
        *total = 0;
        for (int w = 0; w < WARPS; ++w) {
            before += w < warp ? warp_totals[w] : 0;
            *total += warp_totals[w];
        }
        __syncthreads();
        return before + sum - value;
    }
};

__global__ void __launch_bounds__(hnet::THREADS) boundary_scan_kernel(hnet::Arguments arguments) {
    __shared__ hnet::Shared shared;
    __shared__ int warp_totals[WARPS];
    GpuBlock block{warp_totals};
    hnet::boundary_scan(block, shared, arguments);
}

}  // namespace

// Words of 8 bytes that the workspace holds for T units. They are zero before the first launch; each launch leaves them
// zero. Launches that may overlap need workspaces of their own.
extern "C" long long hnet_boundary_scan_workspace(long long num_units) {
    return hnet::HEADER + (num_units + hnet::TILE - 1) / hnet::TILE;
}

// Queues the scan on `stream` and returns a cudaError_t.
extern "C" int hnet_boundary_scan(const void* mask, const void* cu_seqlens, long long num_units, int num_documents,
                                  void* chunk_index, void* chunk_offsets, void* chunk_cu_seqlens, void* workspace,
                                  void* stream) {
    const hnet::Arguments arguments{static_cast<const unsigned char*>(mask), static_cast<const int*>(cu_seqlens),
                                    num_units, num_documents, static_cast<long long*>(chunk_index),
                                    static_cast<int*>(chunk_offsets), static_cast<int*>(chunk_cu_seqlens),
                                    static_cast<hnet::Word*>(workspace)};
    const unsigned num_tiles = unsigned((num_units + hnet::TILE - 1) / hnet::TILE);
    boundary_scan_kernel<<<num_tiles, hnet::THREADS, 0, static_cast<cudaStream_t>(stream)>>>(arguments);
    return int(cudaGetLastError());
}

extern "C" const char* hnet_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
