# Debian packages only (deploy/setup.sh installs them); configuring downloads nothing.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(Eigen3 3.4 REQUIRED)
if(NOT HOLO_PLAIN_KERNELS)
  find_package(hwy REQUIRED)
endif()
find_package(ZLIB REQUIRED)
find_package(OpenCV 4.5 REQUIRED COMPONENTS core imgproc imgcodecs highgui)
find_package(Qt5 REQUIRED COMPONENTS Core Gui)  # OpenCV's windows are Qt's
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(doctest REQUIRED)
find_package(benchmark REQUIRED)

# Asio and Beast are header-only, and 1.74 (Debian's default) lacks what the coroutines need. Where the default is
# installed, deploy/setup.sh leaves it alone and unpacks 1.81's headers below build/boost-1.81.
set(HOLO_BOOST_DIR ${PROJECT_SOURCE_DIR}/build/boost-1.81/usr/include)
add_library(holo_boost INTERFACE)
if(EXISTS ${HOLO_BOOST_DIR}/boost/version.hpp)
  target_include_directories(holo_boost SYSTEM BEFORE INTERFACE ${HOLO_BOOST_DIR})
else()
  find_package(Boost 1.81 REQUIRED)
  target_link_libraries(holo_boost INTERFACE Boost::headers)
endif()
target_link_libraries(holo_boost INTERFACE Threads::Threads)
